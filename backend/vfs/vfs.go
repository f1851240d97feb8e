// Package vfs keeps each layer as a complete directory tree, a copy of its parent's. It needs nothing
// of the file system or the kernel and works anywhere.
//
// # On disk
//
//	<home>/<ID>/    the layer's root directory: all files, as the container sees them
//
// A copy shares its blocks with the parent where the file system has reflinks (xfs, btrfs, bcachefs):
// a layer then costs inodes but next to no space, and is made in the time that it takes to make its
// names. Elsewhere each layer costs as much as all layers below it together.
//
// There are no whiteouts, nothing is kept about what changed, and the store compares trees to find out. Where copies do not share
// their blocks that takes reading both trees: an mtime that is the same, which anybody can set, tells nothing.
// The usage of a layer is that of its whole tree, what was copied from the parents included. Blocks that reflinks share
// are counted in each layer, because stat(2) does not tell them apart: the sum over all layers can be more than the disk holds.
//
// An interrupted Create leaves a part of a tree, which Remove removes.
package vfs

import (
	"context"
	"os"

	"strata/backend"
	"strata/backend/internal/failpoint"
	"strata/backend/internal/layerdir"
	"strata/backend/internal/tree"
)

// What this backend can do besides the three methods.
var (
	_ backend.Backend  = (*vfs)(nil)
	_ backend.Placer   = (*vfs)(nil)
	_ backend.Cloner   = (*vfs)(nil)
	_ backend.Lister   = (*vfs)(nil)
	_ backend.Reporter = (*vfs)(nil)
)

// Config has the settings of vfs: there are none.
type Config struct{}

// NewConfig returns the defaults.
func NewConfig() *Config { return &Config{} }

// vfs is immutable, so that its methods may be called concurrently.
type vfs struct{ layerdir.Dirs }

// New makes the backend. It changes nothing on disk.
func New(_ context.Context, env backend.Env, _ *Config) (backend.Backend, error) {
	return &vfs{layerdir.Dirs{Env: env}}, nil
}

// Create copies the nearest parent, or makes a directory. What an unfinished call left is removed first.
func (v *vfs) Create(ctx context.Context, l backend.Layer) error {
	if parent := l.Parent(); parent != "" {
		return v.copyOf(ctx, l, parent)
	}
	dir, err := v.clear(ctx, l.ID)
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := failpoint.Hit("vfs.create.directory-made"); err != nil {
		return err
	}
	return os.Chmod(dir, 0o755) //nolint:gosec // a layer's root is as open as a root directory is; umask notwithstanding
}

// copyOf makes l a copy of another layer.
func (v *vfs) copyOf(ctx context.Context, l backend.Layer, other string) error {
	from, err := v.Find(other)
	if err != nil {
		return err
	}
	dir, err := v.clear(ctx, l.ID)
	if err != nil {
		return err
	}
	if err := failpoint.Hit("vfs.create.cleared"); err != nil {
		return err
	}
	return tree.Copy(ctx, from, dir)
}

// Clone copies the template.
func (v *vfs) Clone(ctx context.Context, l, template backend.Layer) error {
	return v.copyOf(ctx, l, template.ID)
}

// Remove deletes the tree.
func (v *vfs) Remove(ctx context.Context, l backend.Layer) error {
	_, err := v.clear(ctx, l.ID)
	return err
}

// clear removes what there is of a layer, and returns where it was.
func (v *vfs) clear(ctx context.Context, id string) (dir string, err error) {
	if dir, err = v.Path(id); err != nil {
		return "", err
	}
	return dir, tree.RemoveAll(ctx, dir)
}

// Report tells where the layers are.
func (v *vfs) Report(context.Context) ([]backend.Field, error) {
	return []backend.Field{{Name: "Layers", Value: "full copies"}}, nil
}
