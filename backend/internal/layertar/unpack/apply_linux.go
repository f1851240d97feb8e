package unpack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strata/backend"
	"strata/backend/internal/layertar/tarcodec"
	"strata/backend/internal/layertar/tarlog"
)

// Apply unpacks the layer tar r, which it reads to its end, into dir, which nobody else may touch
// meanwhile. The package comment says what it makes of names, links and whiteouts.
//
// A tar that is malformed or asks for something that is not allowed is an
// errdefs.ErrInvalidArgument, one that is cut off io.ErrUnexpectedEOF; errors of the file system
// wrap their errno. After an error, or a crash, dir and the log hold some part of the tar: the
// caller removes them. Calls for different directories may run at the same time.
func Apply(ctx context.Context, dir string, r io.Reader, o Options) (Result, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	a := &applier{o: o, sparse: map[uint64][]tarcodec.Segment{}}
	if a.o.Workers <= 0 {
		a.o.Workers = defaultWorkers
	}
	if err := a.setUp(ctx, cancel, dir); err != nil {
		return Result{}, err
	}
	var raw func([]byte)
	if o.Log != nil {
		raw = o.Log.Framing
	}
	a.in = tarcodec.NewReader(ctx, r, raw)
	err := a.run(ctx)
	err = errors.Join(err, a.tearDown())
	sum := a.in.Close()
	if err != nil {
		// A writer's error stops the parser, which then only knows that it was stopped.
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return Result{}, fmt.Errorf("unpack layer into %s: %w", dir, err)
	}
	if o.Log != nil {
		if err := o.Log.Finish(a.in.Total(), sum); err != nil {
			return Result{}, err
		}
	}
	return Result{
		Size: a.size, Bytes: a.in.Total(), Digest: tarcodec.DigestString(sum), Entries: a.entries, LeftOut: a.notes.leftOut, Devices0: a.notes.devices0,
	}, nil
}

// maxKept bounds the segments of sparse files that are kept in case the files are deleted again.
const maxKept = 4 * tarlog.MaxLogged

// applier is one call of Apply. All methods are called by the parser's goroutine.
type applier struct {
	o         Options
	in        *tarcodec.Reader
	tree      *tree
	writers   *writers
	rootUID   uint32
	rootGID   uint32
	links     links
	area      area
	touched   touched
	notes     notes
	contested contested
	size      int64
	entries   int

	sparse   map[uint64][]tarcodec.Segment // of sparse files in the log, by made.file
	segments int                           // in all sparse files so far
}

func (a *applier) setUp(ctx context.Context, cancel context.CancelCauseFunc, dir string) (err error) {
	if a.o.Marks == backend.WhiteoutsNone {
		a.o.Marks = a.o.Whiteouts
	}
	v := view{open: a.o.Below}
	switch a.o.Whiteouts {
	case backend.WhiteoutsNone, backend.WhiteoutsAUFS:
	case backend.WhiteoutsOverlay:
		v.opaque = "trusted.overlay.opaque"
	case backend.WhiteoutsOverlayUser:
		v.opaque = "user.overlay.opaque"
	default:
		return fmt.Errorf("whiteouts of kind %d: %w", a.o.Whiteouts, errdefs.ErrNotImplemented)
	}
	if a.rootUID, a.rootGID, err = a.o.IDMap.Root(); err != nil {
		return err
	}
	a.writers = newWriters(ctx, cancel, a.o.Workers, a.o.Durable)
	a.tree, err = newTree(dir, a.writers.wait)
	if err != nil {
		a.writers.close()
		return err
	}
	a.tree.view, a.tree.imply = v, a.imply
	a.tree.made[a.tree.key(contestedFile)] = made{} // marks do not reach it
	a.tree.alive = func() error { return context.Cause(ctx) }
	a.tree.opened = func(path string) { a.touched.add(path, true) }
	return nil
}

// overlaid tells that overlayfs will mount the layer.
func (a *applier) overlaid() bool {
	return a.o.Marks == backend.WhiteoutsOverlay || a.o.Marks == backend.WhiteoutsOverlayUser
}

// tearDown ends the goroutines and closes everything.
func (a *applier) tearDown() error {
	a.writers.close()
	return errors.Join(a.area.remove(a), a.tree.close())
}

func (a *applier) run(ctx context.Context) error {
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		e, err := a.in.Next()
		if errors.Is(err, io.EOF) && e == nil {
			break
		}
		if err != nil {
			return err
		}
		if err := a.entry(e); err != nil {
			return fmt.Errorf("unpack %.200q: %w", e.Name, err)
		}
	}
	return a.finish()
}

// finish does what is left after the last entry.
func (a *applier) finish() error {
	if err := a.in.Drain(); err != nil {
		return err
	}
	if a.in.Total() == 0 && !a.o.AllowEmpty {
		return fmt.Errorf("tar is empty: %w", io.ErrUnexpectedEOF)
	}
	if err := a.writers.wait(); err != nil {
		return err
	}
	if err := a.links.makeAll(a); err != nil {
		return err
	}
	if err := a.area.remove(a); err != nil {
		return err
	}
	if err := a.contested.save(a); err != nil {
		return err
	}
	if err := a.tree.finish(); err != nil || !a.o.Durable {
		return err
	}
	if err := a.touched.sync(a.tree.root.fd); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	return nil
}

func (a *applier) entry(e *tarcodec.Entry) error {
	a.entries++
	a.tree.budget.entries = a.entries
	if e.Size > math.MaxInt64-a.size {
		return fmt.Errorf("sizes add up to more than 64 bits hold: %w", errdefs.ErrInvalidArgument)
	}
	a.size += e.Size
	if a.o.Log != nil {
		if err := a.o.Log.Err(); err != nil {
			return err
		}
	}
	if tarcodec.IsHere(e.Name) {
		return nil
	}
	name := tarcodec.CleanName(e.Name)
	if err := errors.Join(tarcodec.CheckName(name), tarcodec.CheckName(e.Link)); err != nil {
		return err
	}
	if name == "." {
		return a.root(e)
	}
	if a.o.Whiteouts != backend.WhiteoutsAUFS {
		switch tarcodec.Classify(name) {
		case tarcodec.Ordinary:
		case tarcodec.Skipped:
			return nil
		case tarcodec.LinkTarget:
			return a.area.store(a, e, name)
		case tarcodec.Opaque:
			return a.makeOpaque(name)
		case tarcodec.Whiteout:
			return a.whiteout(name)
		}
	}
	parent, base := tarcodec.SplitName(name)
	d, err := a.tree.get(parent)
	if err != nil {
		return err
	}
	defer d.unpin()
	return a.place(e, d, base)
}

// root gives the layer's root the properties in the tar, of an entry called "/" or "..", as Docker does.
func (a *applier) root(e *tarcodec.Entry) error {
	if e.Kind != tarcodec.KindDir {
		return fmt.Errorf("the layer's root is not a directory: %w", errdefs.ErrInvalidArgument)
	}
	at, err := a.newAttrs(e)
	if err != nil {
		return err
	}
	a.tree.root.timed, a.tree.root.times = true, at.times // set when it is closed
	return a.redress(a.tree.root, &at)
}

// place unpacks an ordinary entry as base in d.
func (a *applier) place(e *tarcodec.Entry, d *dir, base string) error {
	at, err := a.newAttrs(e)
	if err != nil {
		return err
	}
	switch e.Kind {
	case tarcodec.KindDir:
		return a.directory(d, base, &at)
	case tarcodec.KindLink:
		return a.link(e, &at, d, base)
	}
	path := tarcodec.JoinName(d.path, base)
	if err := a.vacate(d, base, path); err != nil {
		return err
	}
	if e.Kind == tarcodec.KindChar && device(e) == 0 {
		a.notes.add(&a.notes.devices0, func() string { return strconv.Quote(e.Name) })
		if a.overlaid() {
			return a.conceal(spot{path: d.path, dir: d}, base)
		}
	}
	j := &job{dir: d, acl: d.acl, name: base, kind: e.Kind, attrs: at, target: e.Link, size: e.Size, device: device(e)}
	if e.Kind == tarcodec.KindFile {
		a.touched.add(path, false)
	}
	m, tee := a.record(e, path)
	a.tree.made[a.tree.key(path)] = m
	return a.hand(j, e, tee)
}

// record enters the file that e is about to become into the log. If tee is not nil, the log wants
// the data itself.
func (a *applier) record(e *tarcodec.Entry, path string) (m made, tee func([]byte)) {
	if e.Kind != tarcodec.KindFile || a.in.Left() == 0 || a.o.Log == nil {
		return made{}, nil
	}
	if e.Sparse {
		if len(e.Segments) > tarlog.MaxLogged || len(e.Segments) > maxKept-a.segments { // the log keeps the data itself
			return made{}, a.o.Log.Framing
		}
		a.segments += len(e.Segments)
	}
	m.file = a.o.Log.File(path, e.Size, e.Segments, e.Sparse) + 1
	if e.Sparse {
		a.sparse[m.file] = e.Segments
	}
	return m, nil
}

// device makes a device number. Linux has 12 and 20 bits for it; what does not fit is cut off, as in Docker.
func device(e *tarcodec.Entry) uint64 {
	return unix.Mkdev(uint32(e.Major)&(1<<12-1), uint32(e.Minor)&(1<<20-1))
}
