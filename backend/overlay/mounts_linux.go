package overlay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

	"strata/backend"
	"strata/backend/internal/idmap"
	"strata/backend/internal/mount"
)

// Mounts describes a bind mount for a layer without parents, else an overlay.
func (o *overlay) Mounts(_ context.Context, l backend.Layer, mo backend.MountOptions) ([]backend.Mount, error) {
	m, err := o.mount(l, mo)
	if err != nil {
		return nil, err
	}
	return []backend.Mount{m}, nil
}

func (o *overlay) mount(l backend.Layer, mo backend.MountOptions) (backend.Mount, error) {
	dir, err := o.Find(l.ID)
	if err != nil {
		return backend.Mount{}, err
	}
	if !mo.ReadOnly && filepath.Dir(dir) != filepath.Clean(o.Env.Home) {
		return backend.Mount{}, fmt.Errorf("%s is in a read-only store: %w", dir, errdefs.ErrFailedPrecondition)
	}
	diff := filepath.Join(dir, diffDir)
	if len(l.Parents) == 0 && mo.Label == "" && !l.Detached {
		m := backend.Mount{Type: "bind", Source: diff}
		if mo.ReadOnly {
			m.Options = []string{"ro"}
		}
		return m, nil
	}
	var words []string
	if mo.ReadOnly {
		words = append(words, "lowerdir+="+diff)
	}
	lowers, err := o.lowers(l)
	if err != nil {
		return backend.Mount{}, err
	}
	words = append(words, lowers...)
	if len(l.Parents) == 0 { // an overlay wants a lower directory or, read-only, two
		words = append(words, "lowerdir+="+filepath.Join(o.Env.Home, emptyDir))
	}
	if mo.ReadOnly {
		words = append(words, "ro")
	} else {
		words = append(words, "upperdir="+diff, "workdir="+filepath.Join(dir, workDir))
	}
	words = append(words, o.options...)
	if mo.Label != "" {
		words = append(words, "context="+mo.Label)
	}
	return backend.Mount{Type: "overlay", Source: "overlay", Options: words}, nil
}

// lowers returns the options that name the layer's parents.
func (o *overlay) lowers(l backend.Layer) ([]string, error) {
	mapped, err := o.mapsIDs(l)
	if err != nil {
		return nil, err
	}
	words := make([]string, 0, len(l.Parents))
	for _, p := range l.Parents {
		dir := filepath.Join(o.Env.Home, p.ID)
		if len(o.Env.Stores) > 0 { // else it can be nowhere else, and if it is missing the mount will say so
			if dir, err = o.Find(p.ID); err != nil {
				return nil, err
			}
		}
		words = append(words, "lowerdir+="+filepath.Join(dir, diffDir))
		if !mapped || p.IDMap.Equal(l.IDMap) {
			continue
		}
		m, err := idmap.Between(p.IDMap, l.IDMap)
		if err != nil {
			return nil, fmt.Errorf("show layer %s: %w", p.ID, err)
		}
		words = append(words, mount.IDMapOption(m))
	}
	return words, nil
}

// mapsIDs reports whether parents with another ID map are to be shown with the layer's own: the layer
// says so, or one below it with the same map.
func (o *overlay) mapsIDs(l backend.Layer) (bool, error) {
	same, differs := []string{l.ID}, false
	for _, p := range l.Parents {
		if p.IDMap.Equal(l.IDMap) {
			same = append(same, p.ID)
		} else {
			differs = true
		}
	}
	if !differs {
		return false, nil
	}
	for _, id := range same {
		dir, err := o.Find(id)
		if err != nil {
			return false, err
		}
		_, err = os.Lstat(filepath.Join(dir, idMappedFile))
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return false, err
		}
	}
	return false, nil
}
