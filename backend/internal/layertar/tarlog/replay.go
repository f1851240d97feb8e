package tarlog

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"sync"

	"github.com/containerd/errdefs"

	"strata/backend"
	"strata/backend/internal/layertar/tarcodec"
)

const (
	// slabLen is how much of the tar is put together at a time. Slabs are laid out one after the
	// other, filled in parallel and written in order.
	slabLen = 512 << 10
	// maxSlabs bounds the memory: 4 MiB.
	maxSlabs = 8
	// fillers is how many slabs are filled at a time.
	fillers = 3
)

// Replay writes the tar that the log is of, byte for byte, taking the data of files from src, which
// must hold what was unpacked from it.
//
// A file that is gone, has another size or another content is an errdefs.ErrDataLoss. What was
// written by then, up to the whole length of the tar, is not to be used: a change of content shows
// only in the digest, which is compared after the last byte.
func (l *Log) Replay(ctx context.Context, w io.Writer, src backend.Source) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p := &replay{
		log:   l,
		src:   src,
		done:  ctx.Done(),
		jobs:  make(chan *slab, maxSlabs),
		order: make(chan *slab, maxSlabs),
		free:  make(chan *slab, maxSlabs),
	}
	for range maxSlabs {
		p.free <- &slab{ready: make(chan error, 1)}
	}
	var group sync.WaitGroup
	group.Go(func() {
		if err := p.layOut(); err != nil {
			cancel(err)
		}
		close(p.jobs)
		close(p.order)
	})
	for range fillers {
		group.Go(p.fill)
	}
	err := p.write(ctx, w)
	cancel(err)
	group.Wait()
	if err != nil { // the first error is the cause of the others
		return fmt.Errorf("replay tar log %s: %w", l.path, context.Cause(ctx))
	}
	return nil
}

// replay is one call of Replay.
type replay struct {
	log   *Log
	src   backend.Source
	done  <-chan struct{}
	jobs  chan *slab // to be filled
	order chan *slab // the same slabs, to be written
	free  chan *slab

	cur   *slab
	files uint64 // file records so far
}

// slab is a piece of the tar: framing is there from the start, file data is filled in.
type slab struct {
	buf   []byte
	fills []fill
	ready chan error // one value once the slab is filled
}

// fill is a run of file data in a slab.
type fill struct {
	path   string
	size   int64 // of the file
	offset int64 // in the file
	at     int   // in the slab
	length int
}

// layOut goes through the log and lays out all slabs.
func (p *replay) layOut() error {
	for r, err := range p.log.records() {
		if err != nil {
			return err
		}
		if r.path == "" {
			err = p.raw(r.raw)
		} else {
			err = p.file(&r)
		}
		if err != nil {
			return err
		}
	}
	p.flush()
	return nil
}

// room returns how many bytes fit into the current slab, at least one.
func (p *replay) room() (int, error) {
	if p.cur != nil && len(p.cur.buf) == slabLen {
		p.flush()
	}
	if p.cur == nil {
		select {
		case p.cur = <-p.free:
		case <-p.done:
			return 0, context.Canceled
		}
		if p.cur.buf == nil {
			p.cur.buf = make([]byte, 0, slabLen)
		}
	}
	return slabLen - len(p.cur.buf), nil
}

// flush passes the current slab on; both channels have room for all slabs.
func (p *replay) flush() {
	if p.cur != nil {
		p.jobs <- p.cur
		p.order <- p.cur
		p.cur = nil
	}
}

func (p *replay) raw(b []byte) error {
	for len(b) > 0 {
		n, err := p.room()
		if err != nil {
			return err
		}
		n = min(n, len(b))
		p.cur.buf = append(p.cur.buf, b[:n]...)
		b = b[n:]
	}
	return nil
}

func (p *replay) file(r *record) error {
	number := p.files
	p.files++
	if s, ok := p.log.saved[number]; ok {
		return p.saved(r, s)
	}
	if !r.sparse {
		return p.data(r, tarcodec.Segment{Offset: 0, Length: r.size})
	}
	for _, s := range r.parts {
		if err := p.data(r, s); err != nil {
			return err
		}
	}
	return nil
}

func (p *replay) saved(r *record, s saved) error {
	want := r.size
	if r.sparse {
		want = 0
		for _, part := range r.parts {
			want += part.Length
		}
	}
	if want != s.length {
		return fmt.Errorf("%q: %d bytes saved, want %d: %w", r.path, s.length, want, errdefs.ErrDataLoss)
	}
	return p.log.savedData(s, p.raw)
}

func (p *replay) data(r *record, s tarcodec.Segment) error {
	for s.Length > 0 {
		n, err := p.room()
		if err != nil {
			return err
		}
		n = int(min(int64(n), s.Length))
		at := len(p.cur.buf)
		p.cur.buf = p.cur.buf[:at+n]
		p.cur.fills = append(p.cur.fills, fill{path: r.path, size: r.size, offset: s.Offset, at: at, length: n})
		s.Offset += int64(n)
		s.Length -= int64(n)
	}
	return nil
}

// fill fills slabs until there are no more.
func (p *replay) fill() {
	files := p.src.Reader()
	defer files.Close()
	for s := range p.jobs {
		s.ready <- p.fillSlab(files, s)
	}
}

func (p *replay) fillSlab(files backend.SourceReader, s *slab) error {
	for i := range s.fills {
		select {
		case <-p.done:
			return context.Canceled
		default:
		}
		f := &s.fills[i]
		if err := files.ReadFile(f.path, f.size, s.buf[f.at:f.at+f.length], f.offset); err != nil {
			return fmt.Errorf("read %q: %w", f.path, err)
		}
	}
	return nil
}

// write writes the slabs in order. A slab is digested while the next is written.
func (p *replay) write(ctx context.Context, w io.Writer) error {
	hashed := make(chan *slab, maxSlabs)
	sum := make(chan [sha256.Size]byte, 1)
	go func() {
		h := sha256.New()
		for s := range hashed {
			h.Write(s.buf)
			s.buf, s.fills = s.buf[:0], s.fills[:0]
			p.free <- s
		}
		sum <- [sha256.Size]byte(h.Sum(nil))
	}()
	var total int64
	err := p.writeSlabs(ctx, w, hashed, &total)
	close(hashed)
	got := <-sum
	if err != nil {
		return err
	}
	if total != p.log.foot.length || got != p.log.foot.sum {
		return fmt.Errorf("%d bytes with digest %s, want %d with %s: the content was changed: %w",
			total, tarcodec.DigestString(got), p.log.foot.length, p.log.Digest(), errdefs.ErrDataLoss)
	}
	return nil
}

func (p *replay) writeSlabs(ctx context.Context, w io.Writer, hashed chan<- *slab, total *int64) error {
	for s := range p.order {
		var err error
		select {
		case err = <-s.ready:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		n, err := w.Write(s.buf)
		*total += int64(n)
		if err != nil {
			return fmt.Errorf("write tar: %w", err)
		}
		hashed <- s
	}
	return context.Cause(ctx)
}
