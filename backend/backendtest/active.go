package backendtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"strata/backend"
	"strata/backend/internal/mount"
)

// Active is Dir with layers that can be mounted only while they are active, as disk images would be: it shows what a store does
// for an Activator, and complains if that is not in order.
type Active struct {
	Dir
	mu     sync.Mutex
	active map[string]backend.Layer
}

var _ backend.Activator = (*Active)(nil)

// NewActive is a constructor for store.Config.
func NewActive(_ context.Context, env backend.Env) (backend.Backend, error) {
	return &Active{Dir: *newDir(env), active: map[string]backend.Layer{}}, nil
}

// Activate shows the layer's directory in Env.Active.
func (a *Active) Activate(ctx context.Context, l backend.Layer) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, twice := a.active[l.ID]; twice {
		return errors.New("it is active already")
	}
	for _, p := range l.Parents {
		if mounted, err := mount.Mounted(a.place(p.ID)); err != nil || !mounted {
			return errors.Join(fmt.Errorf("parent %s is not active", p.ID), err)
		}
	}
	dir, err := a.dirs.Find(l.ID)
	if err != nil {
		return err
	}
	if err := os.Mkdir(a.place(l.ID), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	mounted, err := mount.Mounted(a.place(l.ID)) // by a process that has died
	if err != nil {
		return err
	}
	if !mounted {
		if err := mount.Bind(ctx, dir, a.place(l.ID), false); err != nil {
			return err
		}
	}
	a.active[l.ID] = l
	return nil
}

// Deactivate undoes Activate.
func (a *Active) Deactivate(ctx context.Context, l backend.Layer) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, child := range a.active {
		for _, p := range child.Parents {
			if p.ID == l.ID {
				return fmt.Errorf("layer %s above is active", child.ID)
			}
		}
	}
	delete(a.active, l.ID)
	if err := mount.Unmount(ctx, a.place(l.ID)); err != nil {
		return err
	}
	if err := os.Remove(a.place(l.ID)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// Mounts describes a bind mount of what Activate shows.
func (a *Active) Mounts(ctx context.Context, l backend.Layer, o backend.MountOptions) ([]backend.Mount, error) {
	mounts, err := a.Dir.Mounts(ctx, l, o)
	if err == nil {
		mounts[0].Source = a.place(l.ID)
	}
	return mounts, err
}

func (a *Active) place(id string) string { return filepath.Join(a.dirs.Env.Active, id) }
