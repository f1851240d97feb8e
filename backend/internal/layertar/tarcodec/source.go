package tarcodec

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
)

const (
	// BlockLen is how much is read at a time. A multiple of the tar block, so that headers and small
	// files mostly lie in one piece.
	BlockLen = 128 << 10
	// maxBlocks bounds the stream data in memory: 4 MiB, which the digest and the writers find in the
	// cache. With 16 MiB one large file took a quarter longer, many small ones no less.
	maxBlocks = 32
)

// Block is a part of the stream. It is shared, without copying, by the parser, the digest and the
// writers of the files in it; the last to release it makes it free for reading.
type Block struct {
	buf  []byte
	refs atomic.Int32
	home chan<- *Block
}

func (b *Block) retain() { b.refs.Add(1) }

// Release gives up one reference.
func (b *Block) Release() {
	if b.refs.Add(-1) == 0 {
		b.home <- b // has room for all blocks
	}
}

// source cuts a stream into blocks and digests it in a goroutine of its own. It is used by one
// goroutine, which must call close.
type source struct {
	in    io.Reader
	done  <-chan struct{} // closed to stop
	cause func() error    // why it was closed

	free  chan *Block
	made  int
	cur   *Block
	pos   int // of the reader in cur
	end   int // of the data in cur
	total int64
	err   error // io.EOF or what in.Read said

	digest chan Piece
	sum    chan [sha256.Size]byte
}

// Piece is a run of bytes in a block, with a reference to it.
type Piece struct {
	Block *Block
	Data  []byte
}

// Release gives the bytes back. They are not to be used any more.
func (p *Piece) Release() {
	if p.Block != nil {
		p.Block.Release()
		p.Block = nil
	}
}

func newSource(ctx context.Context, in io.Reader) *source {
	s := &source{
		in:     in,
		done:   ctx.Done(),
		cause:  func() error { return context.Cause(ctx) },
		free:   make(chan *Block, maxBlocks),
		digest: make(chan Piece, maxBlocks),
		sum:    make(chan [sha256.Size]byte, 1),
	}
	go s.hash()
	return s
}

func (s *source) hash() {
	h := sha256.New()
	for p := range s.digest {
		h.Write(p.Data)
		p.Release()
	}
	s.sum <- [sha256.Size]byte(h.Sum(nil))
}

// close ends the stream and returns the digest of all that was read of it.
func (s *source) close() [sha256.Size]byte {
	s.retire()
	close(s.digest)
	return <-s.sum
}

// retire hands the current block over to the digest.
func (s *source) retire() {
	if s.cur != nil {
		s.digest <- Piece{s.cur, s.cur.buf[:s.end]} // has room for all blocks; the reference goes along
		s.cur = nil
	}
	s.pos, s.end = 0, 0
}

func (s *source) block() (*Block, error) {
	select {
	case b := <-s.free:
		b.refs.Store(1)
		return b, nil
	default:
	}
	if s.made < maxBlocks {
		s.made++
		b := &Block{buf: make([]byte, BlockLen), home: s.free}
		b.refs.Store(1)
		return b, nil
	}
	select {
	case b := <-s.free:
		b.refs.Store(1)
		return b, nil
	case <-s.done:
		return nil, s.cause()
	}
}

// fill reads until at least one byte is there.
func (s *source) fill() error {
	for idle := 0; s.pos == s.end; idle++ {
		if s.err != nil {
			return s.err
		}
		select {
		case <-s.done:
			return s.cause()
		default:
		}
		if idle == 100 {
			return io.ErrNoProgress
		}
		if s.cur != nil && s.end == len(s.cur.buf) {
			s.retire()
		}
		if s.cur == nil {
			b, err := s.block()
			if err != nil {
				return err
			}
			s.cur = b
		}
		n, err := s.in.Read(s.cur.buf[s.end:])
		s.end += n
		s.total += int64(n)
		if err != nil && !errors.Is(err, io.EOF) {
			err = fmt.Errorf("read tar: %w", err)
		}
		s.err = err
	}
	return nil
}

// read fills p. Like io.ReadFull it returns io.EOF only if there was nothing at all; n is how much
// there was.
func (s *source) read(p []byte) (n int, err error) {
	for n < len(p) {
		if err := s.fill(); err != nil {
			if n > 0 && errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return n, err
		}
		m := copy(p[n:], s.cur.buf[s.pos:s.end])
		n += m
		s.pos += m
	}
	return n, nil
}

// take returns the next 1 to limit bytes where they lie. The caller releases the block.
func (s *source) take(limit int64) (Piece, error) {
	if err := s.fill(); err != nil {
		return Piece{}, err
	}
	n := int(min(limit, int64(s.end-s.pos)))
	p := Piece{s.cur, s.cur.buf[s.pos : s.pos+n : s.pos+n]}
	s.pos += n
	s.cur.retain()
	return p, nil
}

// DigestString is how digests are written in the OCI specifications.
func DigestString(sum [sha256.Size]byte) string { return "sha256:" + hex.EncodeToString(sum[:]) }
