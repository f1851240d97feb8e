package layertar

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strata/backend"
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
	a := &applier{o: o, sparse: map[uint64][]segment{}}
	if a.o.Workers <= 0 {
		a.o.Workers = defaultWorkers
	}
	if err := a.setUp(ctx, cancel, dir); err != nil {
		return Result{}, err
	}
	src := newSource(ctx, r)
	a.in = &reader{src: src}
	if o.Log != nil {
		a.in.raw = o.Log.framing
	}
	err := a.run(ctx)
	err = errors.Join(err, a.tearDown())
	sum := src.close()
	if err != nil {
		// A writer's error stops the parser, which then only knows that it was stopped.
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return Result{}, fmt.Errorf("unpack layer into %s: %w", dir, err)
	}
	if o.Log != nil {
		if err := o.Log.finish(src.total, sum); err != nil {
			return Result{}, err
		}
	}
	return Result{Size: a.size, Bytes: src.total, Digest: digestString(sum), Entries: a.entries}, nil
}

// maxKept bounds the segments of sparse files that are kept in case the files are deleted again; a
// log holds the data of files beyond that itself.
const maxKept = 4 * maxSegments

// applier is one call of Apply. All methods are called by the parser's goroutine.
type applier struct {
	o       Options
	in      *reader
	tree    *tree
	writers *writers
	opaque  string // xattr that makes a directory opaque, "" if the dialect has none
	rootUID uint32
	rootGID uint32
	links   links
	area    area
	touched touched
	size    int64
	entries int

	sparse   map[uint64][]segment // of sparse files in the log, by made.file
	segments int                  // in all sparse files so far
}

func (a *applier) setUp(ctx context.Context, cancel context.CancelCauseFunc, dir string) (err error) {
	switch a.o.Whiteouts {
	case backend.WhiteoutsNone, backend.WhiteoutsAUFS:
	case backend.WhiteoutsOverlay:
		a.opaque = "trusted.overlay.opaque"
	case backend.WhiteoutsOverlayUser:
		a.opaque = "user.overlay.opaque"
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
	a.tree.imply = a.imply
	a.tree.opened = func(path string) { a.touched.add(path, true) }
	return nil
}

// tearDown ends the goroutines and closes everything.
func (a *applier) tearDown() error {
	a.writers.close()
	err := a.area.remove(a)
	a.tree.close()
	return err
}

func (a *applier) run(ctx context.Context) error {
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		e, err := a.in.next()
		if errors.Is(err, io.EOF) && e == nil {
			break
		}
		if err != nil {
			return err
		}
		if err := a.entry(e); err != nil {
			return fmt.Errorf("unpack %q: %w", e.name, err)
		}
	}
	if err := a.in.drain(); err != nil {
		return err
	}
	if a.in.src.total == 0 {
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
	if err := a.tree.finish(); err != nil || !a.o.Durable {
		return err
	}
	if err := a.touched.sync(a.tree.root.fd); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	return nil
}

func (a *applier) entry(e *entry) error {
	a.entries++
	if e.size > math.MaxInt64-a.size {
		return fmt.Errorf("sizes add up to more than 64 bits hold: %w", errdefs.ErrInvalidArgument)
	}
	a.size += e.size
	if a.o.Log != nil {
		if err := a.o.Log.err(); err != nil {
			return err
		}
	}
	name, err := cleanName(e.name)
	if err != nil {
		return err
	}
	if name == "." {
		return a.root(e)
	}
	if a.o.Whiteouts != backend.WhiteoutsAUFS {
		switch classify(name) {
		case ordinary:
		case skipped:
			return nil
		case linkTarget:
			return a.area.store(a, e, name)
		case opaque:
			return a.makeOpaque(name)
		case whiteout:
			return a.whiteout(name)
		}
	}
	parent, base := splitName(name)
	d, err := a.tree.get(parent)
	if err != nil {
		return err
	}
	defer d.unpin()
	return a.place(e, d, base)
}

// root gives the layer's root the properties in the tar.
func (a *applier) root(e *entry) error {
	if e.kind != kindDir {
		return fmt.Errorf("the layer's root is not a directory: %w", errdefs.ErrInvalidArgument)
	}
	at, err := newAttrs(e, a.o.IDMap)
	if err != nil {
		return err
	}
	a.tree.root.timed, a.tree.root.times = true, at.times // set when it is closed
	return a.tree.root.dress(&at, false)
}

// place unpacks an ordinary entry as base in d.
func (a *applier) place(e *entry, d *dir, base string) error {
	at, err := newAttrs(e, a.o.IDMap)
	if err != nil {
		return err
	}
	switch e.kind {
	case kindDir:
		return a.directory(d, base, &at)
	case kindLink:
		return a.link(e, &at, d, base)
	}
	if e.kind == kindChar && a.opaque != "" && e.major == 0 && e.minor == 0 {
		return fmt.Errorf("character device 0:0 would delete the file: %w", errdefs.ErrInvalidArgument)
	}
	path := joinName(d.path, base)
	if err := a.vacate(d, base, path); err != nil {
		return err
	}
	j := &job{dir: d, acl: d.acl, name: base, kind: e.kind, attrs: at, target: e.link, size: e.size}
	if e.kind == kindChar || e.kind == kindBlock {
		if j.device, err = device(e); err != nil {
			return err
		}
	}
	if e.kind == kindFile {
		a.touched.add(path, false)
	}
	m, tee := a.record(e, path)
	a.tree.made[a.tree.key(path)] = m
	return a.hand(j, e, tee)
}

// record enters the file that e is about to become into the log. If tee is not nil, the log wants
// the data itself.
func (a *applier) record(e *entry, path string) (m made, tee func([]byte)) {
	if e.kind != kindFile || a.in.stored == 0 || a.o.Log == nil {
		return made{}, nil
	}
	if e.sparse {
		if a.segments += len(e.segments); a.segments > maxKept {
			return made{}, a.o.Log.framing
		}
	}
	m.file = a.o.Log.file(path, e.size, e.segments, e.sparse) + 1
	if e.sparse {
		a.sparse[m.file] = e.segments
	}
	return m, nil
}

// device makes a device number, within what Linux can have: 12 and 20 bits.
func device(e *entry) (uint64, error) {
	if e.major < 0 || e.major >= 1<<12 || e.minor < 0 || e.minor >= 1<<20 {
		return 0, fmt.Errorf("device %d:%d is out of range: %w", e.major, e.minor, errdefs.ErrInvalidArgument)
	}
	return unix.Mkdev(uint32(e.major), uint32(e.minor)), nil
}
