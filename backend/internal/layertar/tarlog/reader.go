package tarlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"
	"math"
	"os"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"

	"strata/backend/internal/layertar/tarcodec"
	"strata/backend/regular"
)

// Log is a complete log. Its methods may be called concurrently, Close excepted.
type Log struct {
	f     *os.File
	path  string
	foot  footer
	saved map[uint64]saved
	dec   *zstd.Decoder
}

// Open opens a log. One that is cut off or damaged is an errdefs.ErrDataLoss; damage to records
// shows in Replay only.
func Open(path string) (*Log, error) {
	f, err := regular.OpenOwn(path, math.MaxInt64)
	if err != nil {
		return nil, fmt.Errorf("open tar log: %w", err)
	}
	l := &Log{f: f, path: path}
	if err := l.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("open tar log %s: %w", path, err), l.Close())
	}
	return l, nil
}

// Bytes returns the length of the tar, in bytes.
func (l *Log) Bytes() int64 { return l.foot.length }

// Digest returns the digest of the tar: "sha256:" and 64 hex digits.
func (l *Log) Digest() string { return tarcodec.DigestString(l.foot.sum) }

// Close closes the log.
func (l *Log) Close() error {
	if l.dec != nil {
		l.dec.Close()
	}
	if err := l.f.Close(); err != nil {
		return fmt.Errorf("close tar log: %w", err)
	}
	return nil
}

func (l *Log) load() error {
	var err error
	l.dec, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(chunkLimit), zstd.WithDecoderLowmem(true))
	if err != nil {
		return err
	}
	st, err := l.f.Stat()
	if err != nil {
		return err
	}
	if st.Size() < int64(headerLen+footerLen) {
		return fmt.Errorf("%d bytes are too few: %w", st.Size(), errdefs.ErrDataLoss)
	}
	var head [headerLen]byte
	if _, err := l.f.ReadAt(head[:], 0); err != nil {
		return err
	}
	if string(head[:]) != logMagic {
		return fmt.Errorf("starts with %q, not a tar log of this version: %w", head, errdefs.ErrDataLoss)
	}
	var foot [footerLen]byte
	if _, err := l.f.ReadAt(foot[:], st.Size()-int64(footerLen)); err != nil {
		return err
	}
	if l.foot, err = decodeFooter(foot[:]); err != nil {
		return err
	}
	return l.loadIndex(st.Size() - int64(footerLen))
}

// loadIndex reads the chunks between records and footer.
func (l *Log) loadIndex(end int64) error {
	var index []byte
	for at := l.foot.index; at != end; {
		kind, data, next, err := l.chunk(at, nil)
		if err != nil {
			return err
		}
		if kind != chunkIndex || next > end {
			return fmt.Errorf("index at %d is not one: %w", at, errdefs.ErrDataLoss)
		}
		index = append(index, data...)
		at = next
	}
	d := decoder{b: index}
	for len(d.b) > 0 {
		s := saved{file: d.uint(), offset: int64(d.uint()), length: int64(d.uint())}
		if d.bad || len(l.saved) == maxSaved || s.offset < 0 || s.offset > l.foot.index || s.length < 0 {
			return fmt.Errorf("bad index: %w", errdefs.ErrDataLoss)
		}
		if l.saved == nil {
			l.saved = map[uint64]saved{}
		}
		l.saved[s.file] = s
	}
	return nil
}

// chunk reads the chunk at an offset into the capacity of buf and returns the offset of the next.
func (l *Log) chunk(at int64, buf []byte) (kind byte, data []byte, next int64, err error) {
	var b [chunkHead]byte
	if _, err := l.f.ReadAt(b[:], at); err != nil {
		return 0, nil, 0, l.damaged(at, err)
	}
	c, err := decodeChunk(b)
	if err != nil {
		return 0, nil, 0, l.damaged(at, err)
	}
	next = at + chunkHead + int64(c.stored)
	packed := make([]byte, c.stored)
	if _, err := l.f.ReadAt(packed, at+chunkHead); err != nil {
		return 0, nil, 0, l.damaged(at, err)
	}
	if crc32.Checksum(packed, castagnoli) != c.sum {
		return 0, nil, 0, l.damaged(at, errors.New("bad checksum"))
	}
	data, err = l.dec.DecodeAll(packed, buf[:0])
	if err != nil {
		return 0, nil, 0, l.damaged(at, err)
	}
	if len(data) != int(c.length) {
		return 0, nil, 0, l.damaged(at, fmt.Errorf("%d bytes, want %d", len(data), c.length))
	}
	return c.kind, data, next, nil
}

// damaged describes a chunk that cannot be read. An I/O error stays what it is.
func (l *Log) damaged(at int64, err error) error {
	var perr *os.PathError
	if errors.As(err, &perr) {
		return fmt.Errorf("read chunk at %d: %w", at, err)
	}
	return fmt.Errorf("read chunk at %d: %w: %w", at, err, errdefs.ErrDataLoss)
}

// records yields the records of the log in the order of the tar. What a record points to is good
// until the next one.
func (l *Log) records() iter.Seq2[record, error] {
	return func(yield func(record, error) bool) {
		var buf []byte
		for at := int64(headerLen); at < l.foot.index; {
			kind, data, next, err := l.chunk(at, buf)
			if err != nil {
				yield(record{}, err)
				return
			}
			buf, at = data, next
			if kind != chunkRecords {
				continue
			}
			d := decoder{b: data}
			for len(d.b) > 0 {
				r, err := d.record()
				if !yield(r, err) || err != nil {
					return
				}
			}
		}
	}
}

// savedData calls f with the data of a deleted file, piece by piece.
func (l *Log) savedData(s saved, f func([]byte) error) error {
	var buf []byte
	for at, left := s.offset, s.length; left > 0; {
		kind, data, next, err := l.chunk(at, buf)
		if err != nil {
			return err
		}
		if kind == chunkSaved && len(data) > 0 && int64(len(data)) <= left {
			if err := f(data); err != nil {
				return err
			}
			buf, at, left = data, next, left-int64(len(data))
			continue
		}
		return fmt.Errorf("saved data at %d is not there: %w", at, errdefs.ErrDataLoss)
	}
	return nil
}

// record is one step in making the tar again.
type record struct {
	raw    []byte // recordRaw: these bytes; everything else is zero
	path   string // the data of this file, all of it unless sparse is set
	size   int64  // of the file
	sparse bool
	parts  []tarcodec.Segment
}

// decoder takes records apart.
type decoder struct {
	b    []byte
	last string // path of the last file
	bad  bool
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || v > math.MaxInt64 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) bytes(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return nil
	}
	p := d.b[:n]
	d.b = d.b[n:]
	return p
}

// record takes the next record off; there is one.
func (d *decoder) record() (record, error) {
	kind := d.b[0]
	d.b = d.b[1:]
	var r record
	switch kind {
	case recordRaw:
		r.raw = d.bytes(d.uint())
		d.bad = d.bad || len(r.raw) == 0
	case recordFile:
		d.file(&r)
	case recordParts:
		d.file(&r)
		r.sparse = true
		d.segments(&r)
	default:
		d.bad = true
	}
	if d.bad {
		return record{}, fmt.Errorf("bad record of kind %d: %w", kind, errdefs.ErrDataLoss)
	}
	return r, nil
}

func (d *decoder) file(r *record) {
	shared := d.uint()
	suffix := d.bytes(d.uint())
	if shared > uint64(len(d.last)) || len(suffix) == 0 && shared == 0 {
		d.bad = true
		return
	}
	r.path = d.last[:shared] + string(suffix)
	r.size = int64(d.uint())
	d.last = r.path
}

func (d *decoder) segments(r *record) {
	n := d.uint()
	if n > MaxLogged {
		d.bad = true
		return
	}
	r.parts = make([]tarcodec.Segment, 0, min(n, uint64(len(d.b))))
	var end, stored int64
	for range n {
		s := tarcodec.Segment{Offset: int64(d.uint()), Length: int64(d.uint())}
		if d.bad || s.Offset > r.size-end || s.Length > r.size-end-s.Offset {
			d.bad = true
			return
		}
		s.Offset += end
		end = s.Offset + s.Length
		stored += s.Length
		r.parts = append(r.parts, s)
	}
	d.bad = d.bad || tarcodec.CheckSegments(r.parts, r.size, stored) != nil
}
