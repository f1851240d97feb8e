package dirsink

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strata/backend"
	"strata/backend/internal/layertar/tarcodec"
)

// New returns a sink that unpacks into dir, which nobody else may touch meanwhile. Sinks of different
// directories may be used at the same time.
//
// Errors of the file system wrap their errno. After an error, or a crash, dir holds some part of what
// was to come: the caller removes it.
func New(dir string, o Options) backend.Sink { return &sink{dir: dir, o: o} }

// sink is one filling of a directory. All methods are called by the parser's goroutine.
type sink struct {
	dir       string
	o         Options
	host      backend.Unpacker
	tree      *tree
	writers   *writers
	rootUID   uint32
	rootGID   uint32
	touched   touched
	contested contested
}

// Begin implements backend.Sink.
func (a *sink) Begin(ctx context.Context, u backend.Unpacker) error {
	a.host = u
	return a.setUp(ctx)
}

// setUp opens the directory and starts the writers.
func (a *sink) setUp(ctx context.Context) (err error) {
	if a.o.Workers <= 0 {
		a.o.Workers = defaultWorkers
	}
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
	w := newWriters(ctx, a.host, a.o.Workers, a.o.Durable)
	a.tree, err = newTree(a.dir, w.wait)
	if err != nil {
		w.close()
		return err
	}
	a.writers = w
	a.tree.view, a.tree.imply = v, a.imply
	a.tree.made[a.tree.key(contestedFile)] = made{} // marks do not reach it
	a.tree.alive = func() error { return context.Cause(ctx) }
	a.tree.opened = func(path string) { a.touched.add(path, true) }
	return nil
}

// overlaid tells that overlayfs will mount the layer.
func (a *sink) overlaid() bool {
	return a.o.Marks == backend.WhiteoutsOverlay || a.o.Marks == backend.WhiteoutsOverlayUser
}

// Close implements backend.Sink. It ends the goroutines and closes everything.
func (a *sink) Close() error {
	if a.writers == nil {
		return nil
	}
	a.writers.close()
	a.writers = nil
	return a.tree.close()
}

// Finish implements backend.Sink.
func (a *sink) Finish() error {
	if err := a.writers.wait(); err != nil {
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

// Put implements backend.Sink.
func (a *sink) Put(e *backend.Entry, c backend.Content) (at string, err error) {
	a.tree.budget.entries++
	if e.Path == "." {
		return e.Path, a.root(e)
	}
	parent, base := tarcodec.SplitName(e.Path)
	d, err := a.tree.get(parent)
	if err != nil {
		return "", err
	}
	defer d.unpin()
	at = tarcodec.JoinName(d.path, base)
	if e.Mode&unix.S_IFMT == unix.S_IFDIR {
		attrs := a.newAttrs(e)
		return at, a.directory(d, base, &attrs)
	}
	return at, a.place(e, c, d, base)
}

// Remove implements backend.Sink.
func (a *sink) Remove(path string) error {
	parent, base := tarcodec.SplitName(path)
	d, err := a.tree.get(parent)
	if err != nil {
		return err
	}
	defer d.unpin()
	return a.vacate(d, base, tarcodec.JoinName(d.path, base))
}

// root gives the layer's root the properties in the tar, of an entry called "/" or "..", as Docker does.
func (a *sink) root(e *backend.Entry) error {
	at := a.newAttrs(e)
	a.tree.root.timed, a.tree.root.times = true, at.times // set when it is closed
	return a.redress(a.tree.root, &at)
}

// place unpacks what is neither a directory nor a hard link as base in d.
func (a *sink) place(e *backend.Entry, c backend.Content, d *dir, base string) error {
	path := tarcodec.JoinName(d.path, base)
	if err := a.vacate(d, base, path); err != nil {
		return err
	}
	kind, device := e.Mode&unix.S_IFMT, unix.Mkdev(e.Major, e.Minor)
	if kind == unix.S_IFCHR && device == 0 && a.overlaid() {
		return a.conceal(spot{path: d.path, dir: d}, base)
	}
	j := &job{dir: d, acl: d.acl, name: base, kind: kind, attrs: a.newAttrs(e), target: e.Target, size: e.Size, device: device}
	if kind == unix.S_IFREG {
		a.touched.add(path, false)
	}
	a.tree.made[a.tree.key(path)] = made{record: e.Record}
	return a.hand(j, c)
}
