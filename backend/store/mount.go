package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"

	"strata/backend"
	"strata/backend/internal/failpoint"
	"strata/backend/internal/mount"
)

// mountPoint is where a layer is mounted, the same for all its life.
func (s *Store) mountPoint(l *layer) string { return filepath.Join(s.cfg.MountDir, l.rec.ID) }

// Mount mounts the layer and returns where; counted: each Mount wants one Unmount. Sealed layers
// are mounted read-only. The path is the same each time. ErrNotFound, ErrFailedPrecondition for a
// layer whose content is not complete.
func (s *Store) Mount(ctx context.Context, name string, o MountOptions) (string, error) {
	if err := s.writable(); err != nil {
		return "", err
	}
	l, err := s.ready(name)
	if err != nil {
		return "", err
	}
	return s.mountLayer(ctx, l, o)
}

func (s *Store) mountLayer(ctx context.Context, l *layer, o MountOptions) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	rec, err := s.stillUsable(l)
	if err != nil {
		return "", err
	}
	dir := s.mountPoint(l)
	if l.count.Load() > 0 {
		l.count.Add(1)
		return dir, nil
	}
	if o.Label == "" {
		o.Label = rec.Label
	}
	if err := s.attach(ctx, l, s.describe(l), backend.MountOptions{ReadOnly: rec.Sealed, Label: o.Label}); err != nil {
		return "", fmt.Errorf("mount layer %q: %w", rec.Name, classify(err))
	}
	l.count.Store(1)
	l.fresh = l.fresh && o.view
	l.settled = l.settled && o.view
	return dir, failpoint.Hit("store.mount.mounted")
}

// Mounts tells how to mount the layer, for a client that does so itself, in the words of mount(8) (backend/internal/mount,
// Portable). A sealed layer is to be mounted read-only, and the other parts of the store must not be asked to mount
// or fill one that the client has mounted writable. ErrNotFound, ErrFailedPrecondition for a layer whose
// content is not complete, ErrNotImplemented for one that nobody else can mount.
func (s *Store) Mounts(ctx context.Context, name string, o MountOptions) ([]backend.Mount, error) {
	if err := s.writable(); err != nil {
		return nil, err
	}
	l, err := s.ready(name)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	rec, err := s.stillUsable(l)
	if err != nil {
		return nil, err
	}
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
		return nil, fmt.Errorf("describe mounts of layer %q: %w", name, err)
	}
	if !rec.Sealed && !o.ReadOnly && !o.Describe {
		l.fresh, l.settled = false, false
	}
	return mounts, nil
}

// attach performs a layer's first mount. d is how the backend is to see it.
func (s *Store) attach(ctx context.Context, l *layer, d backend.Layer, o backend.MountOptions) (err error) {
	dir := s.mountPoint(l)
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
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := s.admit(d.IDMap); err != nil {
		return err
	}
	if err := mount.Mount(ctx, mounts, dir); err != nil {
		_ = os.Remove(dir) // an empty directory is no harm
		return err
	}
	return nil
}

// admit lets the root of a container's user namespace pass through to the mounts, by its group. To
// everybody else the store is closed: a set-user-ID file in a layer would be one on the host
// (compare CVE-2021-41091).
func (s *Store) admit(m *backend.IDMap) error {
	if m == nil {
		return nil
	}
	_, gid, err := m.Root()
	if err != nil {
		return err
	}
	for _, dir := range []string{s.cfg.Root, s.cfg.MountDir} {
		if err := os.Chown(dir, -1, int(gid)); err != nil {
			return err
		}
		if err := os.Chmod(dir, 0o710); err != nil {
			return err
		}
	}
	return nil
}

// Unmount undoes one Mount. Unmounting an unknown or unmounted layer succeeds. A mount that is
// still in use is detached: it disappears from the tree now and ends with its last user.
func (s *Store) Unmount(ctx context.Context, name string) error {
	l, err := s.lookup(name)
	switch {
	case errdefs.IsNotFound(err):
		return nil // clients repeat Unmount and also call it for layers they removed
	case err != nil:
		return err
	}
	return s.unmountLayer(ctx, l)
}

func (s *Store) unmountLayer(ctx context.Context, l *layer) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.count.Load() == 0 {
		return nil
	}
	if l.count.Load() > 1 {
		l.count.Add(-1)
		return nil
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
		l.mu.Lock()
		if l.count.Load() > 0 {
			errs = append(errs, s.unmountAll(context.WithoutCancel(ctx), l))
		}
		l.mu.Unlock()
	}
	return errors.Join(errs...)
}

// unmountAll unmounts a layer whatever its count. It wants l.mu.
func (s *Store) unmountAll(ctx context.Context, l *layer) error {
	if err := s.detach(ctx, l); err != nil {
		return fmt.Errorf("unmount layer %q: %w", l.rec.Name, err)
	}
	l.count.Store(0)
	return nil
}

// detach undoes attach, and does nothing where nothing is attached.
func (s *Store) detach(ctx context.Context, l *layer) error {
	dir := s.mountPoint(l)
	if err := mount.Unmount(ctx, dir); err != nil {
		return err
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return s.deactivate(ctx, l, unmountedNow)
}

// view is a layer's complete file tree, mounted to be read.
type view struct {
	dir     string
	release func() error
}

// open mounts a layer for the store's own use.
func (s *Store) open(ctx context.Context, l *layer) (view, error) {
	if err := s.writable(); err != nil {
		return view{}, err
	}
	dir, err := s.mountLayer(ctx, l, MountOptions{view: true})
	if err != nil {
		return view{}, err
	}
	return view{dir: dir, release: func() error { return s.unmountLayer(ctx, l) }}, nil
}

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
