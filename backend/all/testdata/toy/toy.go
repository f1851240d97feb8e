// Package toy keeps each layer as a directory, a copy of its parent's: the least that a backend is.
//
// # On disk
//
//	<home>/<ID>/    the layer's root directory
package toy

import (
	"context"
	"errors"
	"os"

	"strata/backend"
	"strata/backend/internal/layerdir"
	"strata/backend/internal/tree"
)

var _ backend.Backend = (*toy)(nil)

// Config has the settings of the backend: there are none.
type Config struct{}

// NewConfig returns the defaults.
func NewConfig() *Config { return &Config{} }

// Driver describes the backend.
func Driver() backend.Driver {
	return backend.With(backend.Driver{
		Name: "toy", Summary: "copies, for a test", Needs: "any file system",
		Grounds: []backend.Ground{{FS: "tmpfs"}}, Like: "native",
	}, NewConfig, New)
}

// toy is immutable. Layers that were made are found, and bound, by Dirs.
type toy struct{ layerdir.Dirs }

// New makes the backend.
func New(_ context.Context, env backend.Env, _ *Config) (backend.Backend, error) {
	return &toy{layerdir.Dirs{Env: env}}, nil
}

// Create copies the parent, or makes a directory.
func (b *toy) Create(ctx context.Context, l backend.Layer) error {
	if err := b.Remove(ctx, l); err != nil {
		return err
	}
	dir, err := b.Path(l.ID)
	if err != nil {
		return err
	}
	if l.Parent() == "" {
		return errors.Join(os.Mkdir(dir, 0o755), os.Chmod(dir, 0o755))
	}
	parent, err := b.Find(l.Parent())
	if err != nil {
		return err
	}
	return tree.Copy(ctx, parent, dir)
}

// Remove deletes the directory.
func (b *toy) Remove(ctx context.Context, l backend.Layer) error {
	dir, err := b.Path(l.ID)
	if err != nil {
		return err
	}
	return tree.RemoveAll(ctx, dir)
}
