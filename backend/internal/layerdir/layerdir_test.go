package layerdir_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/internal/layerdir"
)

// newDirs makes a home and two additional stores: layer "a" is in the first two, "b" in the last one.
func newDirs(t *testing.T) layerdir.Dirs {
	t.Helper()
	d := layerdir.Dirs{Env: backend.Env{Home: t.TempDir(), Stores: []string{t.TempDir(), t.TempDir()}}}
	for _, dir := range []string{d.Env.Home + "/a", d.Env.Home + "/.hidden", d.Env.Home + "/Upper", d.Env.Stores[0] + "/a", d.Env.Stores[1] + "/b"} {
		assert.NilError(t, os.Mkdir(dir, 0o755))
	}
	return d
}

func TestFind(t *testing.T) {
	d := newDirs(t)
	for _, c := range []struct {
		id, want string
		class    func(error) bool
	}{
		{"a", filepath.Join(d.Env.Home, "a"), nil},
		{"b", filepath.Join(d.Env.Stores[1], "b"), nil},
		{"c", "", errdefs.IsNotFound},
		{"", "", errdefs.IsInvalidArgument},
		{"..", "", errdefs.IsInvalidArgument},
		{"a/b", "", errdefs.IsInvalidArgument},
		{"Upper", "", errdefs.IsInvalidArgument},
	} {
		got, err := d.Find(c.id)
		assert.Equal(t, got, c.want, "%q", c.id)
		assert.Assert(t, err == nil && c.class == nil || c.class != nil && c.class(err), "%q: %v", c.id, err)
		p, err := d.Place(t.Context(), backend.Layer{ID: c.id})
		assert.Equal(t, p.Dir, c.want)
		assert.Equal(t, err == nil, c.class == nil)
	}
}

func TestList(t *testing.T) {
	d := newDirs(t)
	assert.NilError(t, os.WriteFile(d.Env.Home+"/notes", nil, 0o600)) // nobody's layer
	ids, err := d.List(t.Context())
	assert.NilError(t, err)
	assert.DeepEqual(t, ids, []string{"a"})
	_, err = layerdir.Dirs{Env: backend.Env{Home: d.Env.Home + "/no"}}.List(t.Context())
	assert.ErrorIs(t, err, os.ErrNotExist)
}

func TestMounts(t *testing.T) {
	d := newDirs(t)
	a := backend.Layer{ID: "a"}
	dir := filepath.Join(d.Env.Home, "a")
	got, err := d.Mounts(t.Context(), a, backend.MountOptions{})
	assert.NilError(t, err)
	assert.DeepEqual(t, got, []backend.Mount{{Type: "bind", Source: dir}})
	got, err = d.Mounts(t.Context(), a, backend.MountOptions{ReadOnly: true})
	assert.NilError(t, err)
	assert.DeepEqual(t, got, []backend.Mount{{Type: "bind", Source: dir, Options: []string{"ro"}}})
	_, err = d.Mounts(t.Context(), a, backend.MountOptions{Label: "system_u:object_r:x:s0"})
	assert.Assert(t, errdefs.IsNotImplemented(err), "%v", err)
	_, err = d.Mounts(t.Context(), backend.Layer{ID: "c"}, backend.MountOptions{})
	assert.Assert(t, errdefs.IsNotFound(err), "%v", err)
}
