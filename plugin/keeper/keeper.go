// Package keeper owns the store that a process has open. It opens, resumes, reconfigures and closes
// the store for three equal front ends: Docker's GraphDriver protocol, containerd's snapshots and
// the control API. While the store cannot be opened, each of them is answered with the reason.
//
// # Restarts
//
// Docker starts a plugin that crashed again without calling Init. The arguments of the last Init
// are therefore kept in init.json, in the store's directory, and the first call that needs the
// store opens it from there. Where containerd is served, too, the store opens without an Init as
// well.
//
// # At rest
//
// A store that no process has open is a [Rest]: its settings and its content are read, and changed,
// by what strata.json, config.json and init.json say.
package keeper

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"strata/backend/store"
	"strata/plugin/config"
)

// ErrNoInit is why a store is not open that only Docker may open: Docker has not sent an Init yet.
var ErrNoInit = errors.New("not initialised")

// Store is what a Keeper itself wants of a store. *store.Store has it.
type Store interface {
	Info(ctx context.Context) (store.StoreInfo, error)
	Stat(ctx context.Context, name string) (store.Info, error)
	Damaged() int
	SetSync(m store.SyncMode) error
	Close(ctx context.Context) error
}

var _ Store = (*store.Store)(nil)

// Options connect a Keeper to the program that it is part of.
type Options struct {
	Table   *config.Table
	Sources []config.Source // of the process: the environment and the command line
	// Settings are in force until a store opens: those of Sources.
	Settings *config.Settings
	Place    Place
	// Apply puts in force what settings say of the process itself, such as the log's level. It is
	// called before the store opens, and for every live change. nil does nothing.
	Apply   func(*config.Settings) error
	Restart string // what is started again to start the process again: config.RestartDocker or RestartService
	Version string // of the program, kept in init.json for the one who reads it
}

// Session is an open store and the Init that it serves. A Session never changes: another Init makes
// another one.
type Session[S Store] struct {
	Store S
	Init  Init            // the latest of Docker's, zero as long as there was none
	Info  store.StoreInfo // as it was when the store was opened: for what does not change
}

// Keeper has the store. All methods may be called concurrently.
type Keeper[S Store] struct {
	o    Options
	open func(ctx context.Context, c store.Config) (S, error)

	opening chan struct{} // has room for one: who put something in may open, reconfigure and close the store
	closed  bool          // guarded by opening
	left    *Session[S]   // what Close has taken, and could not close yet; guarded by opening

	refusal atomic.Pointer[error]      // why nothing can be served, nil if it can
	failed  atomic.Pointer[error]      // of the last Init, nil if it succeeded
	current atomic.Pointer[Session[S]] // nil as long as no store is open; turns nil, and from nil, under mu

	mu       sync.Mutex       // guards what follows; not held while a store opens
	settings *config.Settings // in force
	opts     config.Source    // --storage-opt, as of the last Init
	now      config.Source    // live changes that the config file cannot express
	late     []string         // keys of --storage-opts that take effect when the process is started again
}

// New makes a Keeper of a store on disk. It opens nothing until it is asked.
func New(o Options) *Keeper[*store.Store] { return Over(o, store.Open) }

// Over makes a Keeper of what open opens.
func Over[S Store](o Options, open func(ctx context.Context, c store.Config) (S, error)) *Keeper[S] {
	if o.Apply == nil {
		o.Apply = func(*config.Settings) error { return nil }
	}
	return &Keeper[S]{
		o: o, open: open, opening: make(chan struct{}, 1), settings: o.Settings,
		opts: config.Source{Name: config.SourceStorageOpt}, now: config.Source{Name: sourceNow},
	}
}

// Refuse makes err the answer to everything that needs the store. The first error stays.
func (k *Keeper[S]) Refuse(err error) { k.refusal.CompareAndSwap(nil, &err) }

// Refused returns the error that Refuse was given, nil if there was none.
func (k *Keeper[S]) Refused() error {
	if err := k.refusal.Load(); err != nil {
		return *err
	}
	return nil
}

// lock takes the right to open and close the store. An opening store may have to be waited for.
func (k *Keeper[S]) lock(ctx context.Context) (unlock func(), err error) {
	select {
	case k.opening <- struct{}{}:
		return func() { <-k.opening }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the store to open: %w", context.Cause(ctx))
	}
}

// Init opens the store with Docker's arguments, or reconfigures the open one, and keeps the
// arguments durably for the next process. It may be repeated: Docker calls it whenever it starts,
// also while containers of an earlier daemon run on the store's mounts. The end of ctx interrupts
// the waiting for another call, and no recovery.
//
// ErrInvalidArgument for arguments that cannot work, ErrFailedPrecondition for settings that the
// store does not have, ErrUnavailable after Close; else the errors of store.Open.
func (k *Keeper[S]) Init(ctx context.Context, next Init) error {
	if err := k.Refused(); err != nil {
		return err
	}
	if err := next.check(); err != nil {
		return err
	}
	unlock, err := k.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	ctx = context.WithoutCancel(ctx) // an impatient client must not leave half a recovery
	s, err := k.attach(ctx, next)
	if err != nil {
		k.failed.Store(&err)
		return err
	}
	k.failed.Store(nil)
	if w := k.lostWarning(ctx, s); w != "" {
		log.G(ctx).Warn(w)
	}
	return saveInit(k.initFile(), k.o.Version, next)
}

// attach serves an Init, with the store that is open if one is. It wants the lock.
func (k *Keeper[S]) attach(ctx context.Context, i Init) (*Session[S], error) {
	s := k.current.Load()
	if s == nil {
		return k.openStore(ctx, i)
	}
	// A new home is none of our business, and new ID maps are for new layers.
	if !slices.Equal(s.Init.Opts, i.Opts) {
		if err := k.reconfigure(ctx, s.Store, i); err != nil {
			return nil, fmt.Errorf("init: change options from %q to %q: %w", s.Init.Opts, i.Opts, err)
		}
	}
	s = &Session[S]{Store: s.Store, Init: i, Info: s.Info}
	k.current.Store(s)
	return s, nil
}

// openStore opens the store. It wants the lock.
func (k *Keeper[S]) openStore(ctx context.Context, i Init) (*Session[S], error) {
	if k.closed {
		return nil, fmt.Errorf("shutting down: %w", errdefs.ErrUnavailable)
	}
	k.mu.Lock()
	opts, settings, err := k.resolve(i)
	k.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if err := k.o.Apply(settings); err != nil {
		return nil, err
	}
	c, err := storeConfig(settings, k.o.Place)
	if err != nil {
		return nil, err
	}
	st, err := k.open(ctx, c)
	if err != nil {
		return nil, err
	}
	info, err := st.Info(ctx)
	if err != nil {
		return nil, errors.Join(err, st.Close(ctx))
	}
	s := &Session[S]{Store: st, Init: i, Info: info}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.opts, k.settings = opts, settings
	k.current.Store(s)
	return s, nil
}

// Store returns the open store, after Session.
func (k *Keeper[S]) Store(ctx context.Context) (st S, err error) {
	s, err := k.Session(ctx)
	if err != nil {
		return st, err
	}
	return s.Store, nil
}

// Session returns the open store. If none is open, it opens the store as the last Init had it.
// ErrNoInit if there was none yet, unless containerd is served, too; else the errors of Init.
func (k *Keeper[S]) Session(ctx context.Context) (*Session[S], error) {
	if s := k.current.Load(); s != nil {
		return s, nil
	}
	if err := k.Refused(); err != nil {
		return nil, err
	}
	unlock, err := k.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if s := k.current.Load(); s != nil {
		return s, nil
	}
	i, err := k.lastInit()
	if err != nil {
		return nil, err
	}
	return k.openStore(context.WithoutCancel(ctx), i)
}

// Begun reports whether there was an Init for this store, in this process or an earlier one, or the store is
// open all the same.
func (k *Keeper[S]) Begun() bool {
	if k.current.Load() != nil || k.failed.Load() != nil || k.Refused() != nil {
		return true
	}
	_, err := os.Lstat(k.initFile())
	return !errors.Is(err, fs.ErrNotExist)
}

// Current returns the open store, nil if none is open.
func (k *Keeper[S]) Current() *Session[S] { return k.current.Load() }

// lastInit returns the arguments to open the store with, zero ones for containerd's sake.
func (k *Keeper[S]) lastInit() (Init, error) {
	i, err := loadInit(k.initFile())
	if !errors.Is(err, fs.ErrNotExist) || k.o.Settings.Snapshotter != "" {
		return i, ignoreMissing(err)
	}
	if failed := k.failed.Load(); failed != nil {
		return Init{}, fmt.Errorf("docker's last GraphDriver.Init failed: %w", *failed)
	}
	// The plugin is new, or the root is another than the last.
	return Init{}, fmt.Errorf("%w: %s holds no store that a dockerd has used; start dockerd with --experimental --storage-driver PLUGIN, by the name in "+
		"docker plugin ls, or, if one runs with it, mount the store's disk, set STRATA_ROOT back, or restart dockerd for a new store: %w",
		ErrNoInit, k.o.Place.HostRoot, errdefs.ErrFailedPrecondition)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (k *Keeper[S]) initFile() string { return filepath.Join(k.o.Place.Root, InitFile) }

// Close closes the store if it is open, and lets nobody open it again. All requests must have
// ended. Mounts stay as they are: containers may be running on them. If ctx ends before the store
// is closed, Close may be called again; the end of the process releases the store as well.
func (k *Keeper[S]) Close(ctx context.Context) error {
	unlock, err := k.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	k.closed = true
	k.mu.Lock()
	if s := k.current.Swap(nil); s != nil {
		k.left = s
	}
	k.mu.Unlock()
	if k.left == nil {
		return nil
	}
	err = k.left.Store.Close(ctx)
	if err == nil || ctx.Err() == nil {
		k.left = nil
	}
	return err
}
