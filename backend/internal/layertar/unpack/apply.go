package unpack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"

	"github.com/containerd/errdefs"

	"strata/backend"
	"strata/backend/internal/layertar/tarcodec"
)

// Apply reads the layer tar r to its end and fills s with it, which it closes. The package comment
// says what becomes of names, links and whiteouts.
//
// A tar that is malformed or asks for something that is not allowed is an
// errdefs.ErrInvalidArgument, one that is cut off io.ErrUnexpectedEOF; errors of the sink are passed
// on. After an error, or a crash, the layer and the log hold some part of the tar: the caller removes
// them. Calls for different sinks may run at the same time.
func Apply(ctx context.Context, s backend.Sink, r io.Reader, o Options) (Result, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p := &parser{o: o, sink: s, files: files{log: o.Log}, cancel: cancel}
	p.in = tarcodec.NewReader(ctx, r, p.files.framing())
	err := s.Begin(ctx, p)
	if err == nil {
		err = p.run(ctx)
	}
	if err != nil {
		_ = p.area.remove(s) // err says what is wrong; the caller removes what stays
	}
	err = errors.Join(err, s.Close())
	sum := p.in.Close()
	if err != nil {
		// An error that a sink finds later stops the parser, which then only knows that it was stopped.
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return Result{}, fmt.Errorf("unpack layer: %w", err)
	}
	if o.Log != nil {
		if err := o.Log.Finish(p.in.Total(), sum); err != nil {
			return Result{}, err
		}
	}
	return Result{
		Size: p.size, Bytes: p.in.Total(), Digest: tarcodec.DigestString(sum), Entries: p.entries,
		LeftOut: p.notes.leftOut, Devices0: p.notes.devices0,
	}, nil
}

func (p *parser) run(ctx context.Context) error {
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		e, err := p.in.Next()
		if errors.Is(err, io.EOF) && e == nil {
			break
		}
		if err != nil {
			return err
		}
		if err := p.next(e); err != nil {
			return fmt.Errorf("unpack %.200q: %w", e.Name, err)
		}
	}
	return p.finish()
}

// finish does what is left after the last entry.
func (p *parser) finish() error {
	if err := p.in.Drain(); err != nil {
		return err
	}
	if err := p.links.makeAll(p.sink); err != nil {
		return err
	}
	if err := p.area.remove(p.sink); err != nil {
		return err
	}
	return p.sink.Finish()
}

// next unpacks one entry.
func (p *parser) next(e *tarcodec.Entry) error {
	p.entries++
	if e.Size > math.MaxInt64-p.size {
		return fmt.Errorf("sizes add up to more than 64 bits hold: %w", errdefs.ErrInvalidArgument)
	}
	p.size += e.Size
	if err := p.files.err(); err != nil {
		return err
	}
	if tarcodec.IsHere(e.Name) {
		return nil
	}
	name := tarcodec.CleanName(e.Name)
	if err := errors.Join(tarcodec.CheckName(name), tarcodec.CheckName(e.Link)); err != nil {
		return err
	}
	if name == "." && e.Kind != tarcodec.KindDir {
		return fmt.Errorf("the layer's root is not a directory: %w", errdefs.ErrInvalidArgument)
	}
	if p.o.Literal {
		return p.place(e, name)
	}
	return p.mean(e, name)
}

// mean does what an entry's name asks for.
func (p *parser) mean(e *tarcodec.Entry, name string) error {
	dir, base := tarcodec.SplitName(name)
	switch tarcodec.Classify(name) {
	case tarcodec.Skipped:
		return nil
	case tarcodec.LinkTarget:
		return p.area.store(p, e, base)
	case tarcodec.Opaque:
		return p.sink.Opaque(dir)
	case tarcodec.Whiteout:
		hidden, err := tarcodec.WhiteoutTarget(base)
		if err != nil {
			return err
		}
		return p.sink.Hide(tarcodec.JoinName(dir, hidden))
	case tarcodec.Ordinary:
	}
	return p.place(e, name)
}

// place hands an ordinary entry to the sink.
func (p *parser) place(e *tarcodec.Entry, name string) error {
	if err := p.describe(e, name); err != nil {
		return err
	}
	switch {
	case e.Kind == tarcodec.KindLink:
		return p.link(e)
	case e.Kind == tarcodec.KindChar && p.entry.Major == 0 && p.entry.Minor == 0:
		p.notes.add(&p.notes.devices0, func() string { return strconv.Quote(e.Name) })
	}
	return p.put(e, p.files.plan(e, p.in.Left()))
}

// link makes a hard link, or remembers one whose target is still to come.
func (p *parser) link(e *tarcodec.Entry) error {
	target := tarcodec.CleanName(e.Link)
	if !p.o.Literal && tarcodec.Classify(target) == tarcodec.LinkTarget {
		return p.area.link(p, target)
	}
	p.entry.Target = target
	at, late, err := p.sink.Link(&p.entry, false)
	if err != nil || !late {
		return err
	}
	return p.links.add(at, &p.entry)
}
