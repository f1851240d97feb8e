package backendtest

import (
	"context"
	"os"

	"strata/backend"
	"strata/backend/internal/layerdir"
	"strata/backend/internal/tree"
)

// Dir is the smallest possible backend: a layer is a plain directory, made by copying its parent. It
// has the three methods and nothing else, so under it every default of the store
// is at work. It is the example to read first, and not meant for more than tests.
type Dir struct{ dirs layerdir.Dirs }

// NewDir is a constructor for store.Config.
func NewDir(_ context.Context, env backend.Env) (backend.Backend, error) { return newDir(env), nil }

func newDir(env backend.Env) *Dir { return &Dir{layerdir.Dirs{Env: env}} }

// Create copies the parent. What an interrupted call left is removed first.
func (d *Dir) Create(ctx context.Context, l backend.Layer) error {
	if err := d.Remove(ctx, l); err != nil {
		return err
	}
	dir, err := d.dirs.Path(l.ID)
	if err != nil {
		return err
	}
	if l.Parent() != "" {
		parent, err := d.dirs.Find(l.Parent())
		if err != nil {
			return err
		}
		return tree.Copy(ctx, parent, dir)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return os.Chmod(dir, 0o755) // whatever the umask is
}

// Remove deletes the directory.
func (d *Dir) Remove(ctx context.Context, l backend.Layer) error {
	dir, err := d.dirs.Path(l.ID)
	if err != nil {
		return err
	}
	return tree.RemoveAll(ctx, dir)
}

// Mounts describes a bind mount of the directory.
func (d *Dir) Mounts(ctx context.Context, l backend.Layer, o backend.MountOptions) ([]backend.Mount, error) {
	return d.dirs.Mounts(ctx, l, o)
}
