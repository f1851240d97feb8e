package store

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/containerd/errdefs"

	"strata/backend"
	"strata/backend/internal/failpoint"
	"strata/backend/internal/mount"
)

// ownDir holds an empty file for each layer that is mounted for the store itself only, below Config.MountDir: no ID is like it.
const ownDir = ".own"

// mountPoint is where a layer is mounted, the same for all its life.
func (s *Store) mountPoint(l *layer) string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.pointOf(l)
}

// Mount mounts the layer and returns where; counted: each Mount wants one Unmount. Sealed layers
// are mounted read-only. The path is the same each time. ErrNotFound, ErrFailedPrecondition for a
// layer whose content is not complete.
func (s *Store) Mount(ctx context.Context, name string, o MountOptions) (string, error) {
	if err := s.writable(); err != nil {
		return "", err
	}
	l, rec, err := s.holdReady(ctx, name)
	if err != nil {
		return "", err
	}
	defer l.mu.Unlock()
	return s.mountLayer(ctx, l, rec, o)
}

// mountLayer wants l.mu.
func (s *Store) mountLayer(ctx context.Context, l *layer, rec record, o MountOptions) (string, error) {
	dir, users := s.mountPoint(l), &l.count
	if o.view {
		users = &l.views
	}
	if err := s.noteOwn(l, o.view && l.count.Load() == 0); err != nil {
		return "", err
	}
	if l.mounted() {
		users.Add(1)
		l.handOut(o)
		return dir, nil
	}
	if o.Label == "" {
		o.Label = rec.Label
	}
	if err := s.attach(ctx, l, s.describe(l), backend.MountOptions{ReadOnly: rec.Sealed, Label: o.Label}); err != nil {
		return "", s.layerError("mount", l, err)
	}
	users.Store(1)
	l.handOut(o)
	return dir, failpoint.Hit("store.mount.mounted")
}

// handOut notes that whoever is told where a layer is mounted may write to it, but for the store itself. It wants l.mu.
func (l *layer) handOut(o MountOptions) {
	l.fresh = l.fresh && o.view
	if !o.view {
		l.content.exposed()
	}
}

// Mounts tells how to mount the layer, for a client that does so itself, in the words of mount(8) (backend/internal/mount,
// Portable). A sealed layer is to be mounted read-only, and the other parts of the store must not be asked to mount
// or fill one that the client has mounted writable. ErrNotFound, ErrFailedPrecondition for a layer whose
// content is not complete, ErrNotImplemented for one that nobody else can mount.
func (s *Store) Mounts(ctx context.Context, name string, o MountOptions) ([]backend.Mount, error) {
	if err := s.writable(); err != nil {
		return nil, err
	}
	l, rec, err := s.holdReady(ctx, name)
	if err != nil {
		return nil, err
	}
	defer l.mu.Unlock()
	if o.Label == "" {
		o.Label = rec.Label
	}
	mounts, err := s.backend.Mounts(ctx, s.describe(l), backend.MountOptions{ReadOnly: rec.Sealed || o.ReadOnly, Label: o.Label})
	if err == nil {
		mounts, err = mount.Portable(mounts)
	}
	if err == nil && !o.Describe {
		err = s.lend(ctx, l)
	}
	if err != nil {
		return nil, s.layerError("describe mounts of", l, err)
	}
	if !rec.Sealed && !o.ReadOnly && !o.Describe {
		l.fresh = false
		l.content.exposed()
	}
	return mounts, nil
}

// attach performs a layer's first mount. d is how the backend is to see it.
func (s *Store) attach(ctx context.Context, l *layer, d backend.Layer, o backend.MountOptions) (err error) {
	if err := s.activate(ctx, l, mountedNow); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.deactivate(context.WithoutCancel(ctx), l, unmountedNow))
		}
	}()
	mounts, err := s.backend.Mounts(ctx, d, o)
	if err != nil {
		return err
	}
	if err := s.makeMountPoint(l); err != nil {
		return err
	}
	if err := mount.Mount(ctx, mounts, s.mountPoint(l)); err != nil {
		return errors.Join(err, s.removeMountPoint(l))
	}
	return nil
}

// Unmount undoes one Mount. Unmounting an unknown or unmounted layer succeeds. A mount that is
// still in use is detached: it disappears from the tree now and ends with its last user.
func (s *Store) Unmount(ctx context.Context, name string) error {
	l, err := s.hold(ctx, name)
	switch {
	case errdefs.IsNotFound(err):
		return nil // clients repeat Unmount and also call it for layers they removed
	case err != nil:
		return err
	}
	defer l.mu.Unlock()
	return s.unmountLayer(ctx, l, &l.count)
}

// unmountLayer undoes one mount of those that users counts. It wants l.mu.
func (s *Store) unmountLayer(ctx context.Context, l *layer, users *atomic.Int32) error {
	if users.Load() == 0 {
		return nil
	}
	if l.count.Load()+l.views.Load() > 1 {
		users.Add(-1)
		return s.noteOwn(l, l.count.Load() == 0)
	}
	return s.unmountAll(context.WithoutCancel(ctx), l)
}

// UnmountAll undoes every Mount, for a client that has ended without doing so.
func (s *Store) UnmountAll(ctx context.Context) error {
	s.mu.RLock()
	layers := slices.Collect(maps.Values(s.byID))
	for _, p := range s.peers {
		layers = slices.AppendSeq(layers, maps.Values(p.byID))
	}
	s.mu.RUnlock()
	var errs []error
	for _, l := range layers {
		errs = append(errs, s.unmountClient(context.WithoutCancel(ctx), l))
	}
	return errors.Join(errs...)
}

// unmountClient undoes every Mount of a layer, and leaves it mounted as long as the store itself looks at it.
func (s *Store) unmountClient(ctx context.Context, l *layer) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.count.Load() == 0:
		return nil
	case l.views.Load() > 0:
		l.count.Store(0)
		return s.noteOwn(l, true)
	}
	return s.unmountAll(ctx, l)
}

// unmountAll unmounts a layer whatever its count. It wants l.mu.
func (s *Store) unmountAll(ctx context.Context, l *layer) error {
	if err := s.detach(ctx, l); err != nil {
		return s.layerError("unmount", l, err)
	}
	l.count.Store(0)
	l.views.Store(0)
	return nil
}

// detach undoes attach, and does nothing where nothing is attached.
func (s *Store) detach(ctx context.Context, l *layer) error {
	if err := mount.Unmount(ctx, s.mountPoint(l)); err != nil {
		return err
	}
	if err := s.removeMountPoint(l); err != nil {
		return err
	}
	s.mu.Lock()
	l.outside = false
	s.mu.Unlock()
	return errors.Join(s.noteOwn(l, false), s.deactivate(ctx, l, unmountedNow))
}

// noteOwn notes, in a file, whether a layer is mounted for the store itself only. The next Open unmounts it if this process dies: nobody else
// would. It wants l.mu.
func (s *Store) noteOwn(l *layer, own bool) error {
	if l.own == own {
		return nil
	}
	path := filepath.Join(s.ownPath(), l.rec.ID)
	if own {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			return err
		}
	} else if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l.own = own
	return nil
}

func (s *Store) ownPath() string { return filepath.Join(s.cfg.MountDir, ownDir) }

// view is a layer's complete file tree, mounted to be read. What somebody has mounted in the layer is not in it.
type view struct {
	dir     string // leads there in this process
	shown   string // what people call it
	release func() error
}

// open mounts a layer that is pinned, or is made from one that is, for the store's own use.
func (s *Store) open(ctx context.Context, l *layer) (view, error) {
	if err := s.writable(); err != nil {
		return view{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s.mu.RLock()
	rec, err := l.rec, l.readable()
	s.mu.RUnlock()
	if err != nil {
		return view{}, err
	}
	dir, err := s.mountLayer(ctx, l, rec, MountOptions{view: true})
	if err != nil {
		return view{}, err
	}
	if err := failpoint.Hit("store.view.opened"); err != nil {
		return view{}, errors.Join(err, s.unmountLayer(ctx, l, &l.views))
	}
	unmount := func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		return s.unmountLayer(ctx, l, &l.views)
	}
	bare, unbare, err := mount.Bare(dir)
	if err != nil {
		return view{}, errors.Join(err, s.unmountLayer(ctx, l, &l.views))
	}
	return view{dir: bare, shown: dir, release: func() error { return errors.Join(unbare(), unmount()) }}, nil
}

// explain gives the view's directory its name in an error's text.
func (v view) explain(err error) error {
	if err == nil || v.dir == v.shown {
		return err
	}
	return &shownError{error: err, shown: strings.NewReplacer(strings.TrimSuffix(v.dir, "."), v.shown+"/")}
}

// shownError is an error about files that has the names that people know.
type shownError struct {
	error
	shown *strings.Replacer
}

func (e *shownError) Error() string { return e.shown.Replace(e.error.Error()) }
func (e *shownError) Unwrap() error { return e.error }

// place gives access to the files of a layer that nobody else uses: where the backend says that
// they lie, else in a mount.
func (s *Store) place(ctx context.Context, d backend.Layer) (backend.Place, func() error, error) {
	if s.able.placer != nil {
		p, err := s.able.placer.Place(ctx, d)
		return p, func() error { return nil }, err
	}
	dir, release, err := s.mountAlone(ctx, d)
	return backend.Place{Dir: dir}, release, err
}

// mountAlone mounts a layer that nobody else uses, writable, where it will always be mounted.
func (s *Store) mountAlone(ctx context.Context, d backend.Layer) (dir string, release func() error, err error) {
	s.mu.RLock()
	l := s.byID[d.ID]
	s.mu.RUnlock()
	if err := s.attach(ctx, l, d, backend.MountOptions{}); err != nil {
		return "", nil, err
	}
	return s.mountPoint(l), func() error { return s.detach(context.WithoutCancel(ctx), l) }, nil
}
