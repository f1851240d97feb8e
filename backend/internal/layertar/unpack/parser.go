package unpack

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/containerd/errdefs"

	"strata/backend"
	"strata/backend/internal/layertar/tarcodec"
)

// parser is one call of Apply. It is the sink's backend.Unpacker.
type parser struct {
	o       Options
	in      *tarcodec.Reader
	sink    backend.Sink
	cancel  context.CancelCauseFunc
	files   files
	links   links
	area    area
	notes   notes
	entry   backend.Entry // the one that the sink has
	content content
	size    int64
	entries int
}

// Fail implements backend.Unpacker.
func (p *parser) Fail(err error) { p.cancel(err) }

// Save implements backend.Unpacker.
func (p *parser) Save(record uint64, content io.ReaderAt) error {
	return p.files.save(record, content)
}

// LeaveOut implements backend.Unpacker.
func (p *parser) LeaveOut(attribute, name string, why error) {
	p.notes.add(&p.notes.leftOut, func() string { return fmt.Sprintf("%s of %q: %v", attribute, name, why) })
}

// put hands the entry that was described last to the sink, with its content.
func (p *parser) put(e *tarcodec.Entry, w way) error {
	p.entry.Record = w.record
	p.content.start(p.in, e, w.tee)
	at, err := p.sink.Put(&p.entry, &p.content)
	if err != nil {
		return err
	}
	if p.in.Left() > 0 && e.Kind == tarcodec.KindFile {
		return fmt.Errorf("%d bytes of content were not taken: %w", p.in.Left(), errdefs.ErrInternal)
	}
	if w.record != 0 {
		p.files.add(at, e)
	}
	return nil
}

// area is AUFS's hard-link area (".wh..wh.plnk"): files that are not part of the layer themselves but
// the targets of hard links in it.
type area struct {
	files map[string]string // name in the area: path in areaDir
	made  bool
}

// notes gathers what Result tells about entries. It may be used by several goroutines.
type notes struct {
	mu                sync.Mutex
	leftOut, devices0 Note
}

func (n *notes) add(to *Note, first func() string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if to.Count++; to.Count == 1 {
		to.First = first()
	}
}
