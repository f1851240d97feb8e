// Package layerdir is what backends have in common that keep each layer in a directory called <home>/<ID>. If that
// directory is the root of the layer's complete tree, a backend that embeds [Dirs] has Mounts, Place and List.
package layerdir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"strata/backend"
)

// What Dirs is a part of.
var (
	_ backend.Placer = Dirs{}
	_ backend.Lister = Dirs{}
)

// Dirs finds layers' directories. It is immutable, so that its methods may be called concurrently.
type Dirs struct {
	Env backend.Env
	// Part is the name, in a layer's directory, without which the layer is not there; "" if there is none.
	Part string
}

// Path returns where a layer of this store is, or is to be. ErrInvalidArgument for an ID that could lead
// elsewhere: "" would be the whole home.
func (d Dirs) Path(id string) (string, error) {
	if err := backend.CheckID(id); err != nil {
		return "", err
	}
	return filepath.Join(d.Env.Home, id), nil
}

// Find looks a layer up in Home and then in the additional stores. ErrNotFound.
func (d Dirs) Find(id string) (string, error) {
	if _, err := d.Path(id); err != nil {
		return "", err
	}
	homes := append([]string{d.Env.Home}, d.Env.Stores...)
	for _, home := range homes {
		dir := filepath.Join(home, id)
		_, err := os.Lstat(filepath.Join(dir, d.Part))
		if err == nil {
			return dir, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return "", fmt.Errorf("no directory of layer %s in %s: %w", id, strings.Join(homes, ", "), errdefs.ErrNotFound)
}

// Mounts binds the directory. ErrNotImplemented for an SELinux label, which a bind mount cannot have.
func (d Dirs) Mounts(_ context.Context, l backend.Layer, o backend.MountOptions) ([]backend.Mount, error) {
	if o.Label != "" {
		return nil, fmt.Errorf("only overlay can label a mount for SELinux: %w", errdefs.ErrNotImplemented)
	}
	dir, err := d.Find(l.ID)
	if err != nil {
		return nil, err
	}
	m := backend.Mount{Type: "bind", Source: dir}
	if o.ReadOnly {
		m.Options = []string{"ro"}
	}
	return []backend.Mount{m}, nil
}

// Place returns the directory, which has no whiteouts.
func (d Dirs) Place(_ context.Context, l backend.Layer) (backend.Place, error) {
	dir, err := d.Find(l.ID)
	if err != nil {
		return backend.Place{}, err
	}
	return backend.Place{Dir: dir, Whiteouts: backend.WhiteoutsNone}, nil
}

// List returns the directories in Home that can be layers.
func (d Dirs) List(context.Context) ([]string, error) {
	entries, err := os.ReadDir(d.Env.Home)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() && backend.CheckID(e.Name()) == nil {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}
