package backendtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"strata/backend"
	"strata/backend/internal/tree"
)

// Dir is the smallest possible backend: a layer is a plain directory, made by copying its parent. It
// has the three methods and nothing else, so under it every default of the store
// is at work. It is the example to read first, and not meant for more than tests.
type Dir struct{ env backend.Env }

// NewDir is a constructor for store.Config.
func NewDir(_ context.Context, env backend.Env) (backend.Backend, error) { return &Dir{env}, nil }

// Create copies the parent.
func (d *Dir) Create(ctx context.Context, l backend.Layer) error {
	if err := d.Remove(ctx, l); err != nil { // what an interrupted Create left
		return err
	}
	dir := d.path(l.ID)
	if l.Parent() != "" {
		parent, err := d.find(l.Parent())
		if err != nil {
			return err
		}
		if err := tree.Copy(ctx, parent, dir); err != nil {
			return fmt.Errorf("create layer %s: %w", l.ID, err)
		}
		return nil
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("create layer %s: %w", l.ID, err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // whatever the umask is
		return fmt.Errorf("create layer %s: %w", l.ID, err)
	}
	return nil
}

// Remove deletes the directory.
func (d *Dir) Remove(ctx context.Context, l backend.Layer) error {
	if err := tree.RemoveAll(ctx, d.path(l.ID)); err != nil {
		return fmt.Errorf("remove layer %s: %w", l.ID, err)
	}
	return nil
}

// Mounts describes a bind mount of the directory.
func (d *Dir) Mounts(_ context.Context, l backend.Layer, o backend.MountOptions) ([]backend.Mount, error) {
	dir, err := d.find(l.ID)
	if err != nil {
		return nil, err
	}
	m := backend.Mount{Type: "bind", Source: dir}
	if o.ReadOnly {
		m.Options = []string{"ro"}
	}
	return []backend.Mount{m}, nil
}

func (d *Dir) path(id string) string { return filepath.Join(d.env.Home, id) }

// find returns the directory of a layer in this store or in one of the read-only ones.
func (d *Dir) find(id string) (string, error) {
	var first error
	for _, home := range append([]string{d.env.Home}, d.env.Stores...) {
		dir := filepath.Join(home, id)
		_, err := os.Lstat(dir)
		if err == nil {
			return dir, nil
		}
		if first == nil {
			first = err
		}
	}
	return "", fmt.Errorf("find layer %s: %w", id, first)
}
