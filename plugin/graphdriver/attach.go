package graphdriver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"strata/backend"
	"strata/backend/store"
)

// Init is what Docker says when it starts to use a driver.
type Init struct {
	// Home is the directory that Docker proposes: the plugin's propagated mount, or Docker's data
	// root, joined with the driver's name as the user typed it ("strata", "strata:latest", ...).
	// Whoever decides where the store lies must not let it depend on the last component.
	Home string
	// Opts are Docker's --storage-opt values, as they are.
	Opts []string
	// UIDMaps and GIDMaps are those of userns-remap, else empty.
	UIDMaps []backend.IDRange
	GIDMaps []backend.IDRange
}

// IDMap returns how the layers are to be stored, nil for no map.
func (i Init) IDMap() *backend.IDMap {
	if len(i.UIDMaps) == 0 && len(i.GIDMaps) == 0 {
		return nil
	}
	return &backend.IDMap{UIDs: i.UIDMaps, GIDs: i.GIDMaps}
}

func (i Init) check() error {
	if !filepath.IsAbs(i.Home) {
		return fmt.Errorf("init: home %q is not an absolute path: %w", i.Home, errdefs.ErrInvalidArgument)
	}
	if err := i.IDMap().Check(); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	if _, _, err := i.IDMap().Root(); err != nil {
		return fmt.Errorf("init: no owner for the root directory of layers: %w", err)
	}
	return nil
}

// layers is what the handler wants of a *store.Store.
type layers interface {
	lifecycle
	content
	reports
}

type lifecycle interface {
	Create(ctx context.Context, name, parent string, o store.CreateOptions) error
	Discard(ctx context.Context, name string) error
	Mount(ctx context.Context, name string, o store.MountOptions) (string, error)
	Unmount(ctx context.Context, name string) error
	UnmountAll(ctx context.Context) error
}

type content interface {
	Apply(ctx context.Context, name string, r io.Reader) (int64, error)
	Diff(ctx context.Context, name, parent string, w io.Writer) error
	Changes(ctx context.Context, name, parent string) iter.Seq2[backend.Change, error]
	DiffSize(ctx context.Context, name, parent string) (int64, error)
}

type reports interface {
	Stat(ctx context.Context, name string) (store.Info, error)
	Describe(ctx context.Context, name string) ([]backend.Field, error)
	Info(ctx context.Context) (store.StoreInfo, error)
	Damaged() int
	Close(ctx context.Context) error
}

var _ layers = (*store.Store)(nil)

// attachment is an open store and the Init that it serves. It never changes.
type attachment struct {
	layers
	init Init
	info store.StoreInfo // as it was when the store was opened: for what does not change
}

// lock takes the right to attach, for which an opening store may have to be waited.
func (h *Handler) lock(ctx context.Context) (unlock func(), err error) {
	select {
	case h.attaching <- struct{}{}:
		return func() { <-h.attaching }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the store to open: %w", context.Cause(ctx))
	}
}

// init is GraphDriver.Init. It is what attaches a store, not what makes one: Docker calls it
// whenever it starts, also while containers of an earlier daemon are running on our mounts.
func (h *Handler) init(ctx context.Context, next Init) (reply, error) {
	if err := h.o.Refuse(); err != nil {
		return reply{}, err
	}
	if err := next.check(); err != nil {
		return reply{}, err
	}
	unlock, err := h.lock(ctx)
	if err != nil {
		return reply{}, err
	}
	defer unlock()
	ctx = context.WithoutCancel(ctx) // an impatient client must not leave half a recovery
	a := h.current.Load()
	if a == nil {
		a, err = h.attach(ctx, next)
	} else {
		a, err = h.reattach(ctx, a, next)
	}
	if err != nil {
		h.failed.Store(&err)
		return reply{}, err
	}
	if w := h.lostWarning(ctx, a); w != "" {
		log.G(ctx).Warn(w)
	}
	h.failed.Store(nil)
	h.current.Store(a)
	return reply{}, saveInit(h.o.InitFile, h.o.Version, next)
}

// attach opens the store. It wants the lock.
func (h *Handler) attach(ctx context.Context, i Init) (*attachment, error) {
	if h.closed {
		return nil, fmt.Errorf("shutting down: %w", errdefs.ErrUnavailable)
	}
	l, err := h.open(ctx, i)
	if err != nil {
		return nil, err
	}
	info, err := l.Info(ctx)
	if err != nil {
		return nil, errors.Join(err, l.Close(ctx))
	}
	return &attachment{layers: l, init: i, info: info}, nil
}

// reattach serves another Init with the store that is open. A new home is none of our business, new
// ID maps are for new layers; new options need the program's help.
func (h *Handler) reattach(ctx context.Context, a *attachment, next Init) (*attachment, error) {
	if !slices.Equal(a.init.Opts, next.Opts) {
		if h.change == nil {
			return nil, fmt.Errorf("init: options changed from %q to %q while the store is open; restart strata for that: %w",
				a.init.Opts, next.Opts, errdefs.ErrFailedPrecondition)
		}
		if err := h.change(ctx, a.layers, a.init, next); err != nil {
			return nil, fmt.Errorf("init: change options from %q to %q: %w", a.init.Opts, next.Opts, err)
		}
	}
	return &attachment{layers: a.layers, init: next, info: a.info}, nil
}

// Resume opens the store if an earlier process was given an Init, and does nothing if it is open.
// ErrFailedPrecondition if there was no Init yet, unless Alone is set. Every call that needs the store does the same;
// a program may call it right after its start, so that recovery does not wait for the first call.
func (h *Handler) Resume(ctx context.Context) error {
	_, err := h.attached(ctx)
	return err
}

// Store returns the open store, after Resume. Errors are those of Resume.
func (h *Handler) Store(ctx context.Context) (*store.Store, error) {
	a, err := h.attached(ctx)
	if err != nil {
		return nil, err
	}
	s, ok := a.layers.(*store.Store)
	if !ok {
		return nil, fmt.Errorf("the store is a %T: %w", a.layers, errdefs.ErrNotImplemented)
	}
	return s, nil
}

// attached returns the open store, opening it from InitFile if need be.
func (h *Handler) attached(ctx context.Context) (*attachment, error) {
	if a := h.current.Load(); a != nil {
		return a, nil
	}
	if err := h.o.Refuse(); err != nil {
		return nil, err
	}
	unlock, err := h.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if a := h.current.Load(); a != nil {
		return a, nil
	}
	i, err := loadInit(h.o.InitFile)
	switch {
	case errors.Is(err, fs.ErrNotExist) && h.o.Alone:
		i, err = Init{Home: "/"}, nil
	case errors.Is(err, fs.ErrNotExist) && h.failed.Load() != nil:
		return nil, fmt.Errorf("docker's last GraphDriver.Init failed: %w", *h.failed.Load())
	case errors.Is(err, fs.ErrNotExist):
		return nil, h.notInitialised()
	}
	if err != nil {
		return nil, err
	}
	a, err := h.attach(context.WithoutCancel(ctx), i)
	if err != nil {
		return nil, err
	}
	h.current.Store(a)
	return a, nil
}

// notInitialised says what to do where there is no Init to go by: a new plugin, or another root than the last.
func (h *Handler) notInitialised() error {
	return fmt.Errorf("not initialised: %s holds no store that a dockerd has used; start dockerd with --experimental --storage-driver PLUGIN, by the name in "+
		"docker plugin ls, or, if one runs with it, mount the store's disk, set STRATA_ROOT back, or restart dockerd for a new store: %w",
		h.o.HostText(filepath.Dir(h.o.InitFile)), errdefs.ErrFailedPrecondition)
}

// Close closes the store if it is open and lets nobody open it again. All requests must have ended.
// Mounts stay as they are: containers may be running on them.
func (h *Handler) Close(ctx context.Context) error {
	unlock, err := h.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	h.closed = true
	a := h.current.Swap(nil)
	if a == nil {
		return nil
	}
	return a.Close(ctx)
}
