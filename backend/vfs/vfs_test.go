package vfs_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/backendtest"
)

func TestMain(m *testing.M) { os.Exit(backendtest.Main(m)) }

// TestStores finds parents, but nothing else, in additional stores.
func TestStores(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: copies owners")
	}
	ctx := t.Context()
	env := backend.Env{Home: t.TempDir(), Stores: []string{t.TempDir(), t.TempDir()}}
	other, err := on("").New(ctx, backend.Env{Home: env.Stores[1]})
	assert.NilError(t, err)
	assert.NilError(t, other.Create(ctx, backend.Layer{ID: "base"}))
	assert.NilError(t, os.WriteFile(filepath.Join(env.Stores[1], "base", "f"), []byte("x"), 0o600))
	assert.NilError(t, os.Chmod(filepath.Join(env.Stores[1], "base"), 0o751))

	b, err := on("").New(ctx, env)
	assert.NilError(t, err)
	child := backend.Layer{ID: "child", Parents: []backend.Parent{{ID: "base"}}}
	for range 2 { // Create may be repeated
		assert.NilError(t, b.Create(ctx, child))
	}
	content, err := os.ReadFile(filepath.Join(env.Home, "child", "f"))
	assert.NilError(t, err)
	assert.Equal(t, string(content), "x")
	fi, err := os.Stat(filepath.Join(env.Home, "child"))
	assert.NilError(t, err)
	assert.Equal(t, fi.Mode().Perm(), os.FileMode(0o751))

	err = b.Create(ctx, backend.Layer{ID: "orphan", Parents: []backend.Parent{{ID: "nowhere"}}})
	assert.Assert(t, errdefs.IsNotFound(err), "%v", err)
	lister, _ := b.(backend.Lister)
	ids, err := lister.List(ctx)
	assert.NilError(t, err)
	slices.Sort(ids)
	assert.DeepEqual(t, ids, []string{"child"})
	assert.NilError(t, b.Remove(ctx, child))
	assert.NilError(t, b.Remove(ctx, child))
}

func TestLabelIsRefused(t *testing.T) {
	b, err := on("").New(t.Context(), backend.Env{Home: t.TempDir()})
	assert.NilError(t, err)
	_, err = b.Mounts(t.Context(), backend.Layer{ID: "l"}, backend.MountOptions{Label: "system_u:object_r:x:s0"})
	assert.Assert(t, errdefs.IsNotImplemented(err), "%v", err)
}

func TestInvalidID(t *testing.T) {
	home := filepath.Join(t.TempDir(), "home")
	assert.NilError(t, os.MkdirAll(filepath.Join(home, "kept"), 0o700))
	b, err := on("").New(t.Context(), backend.Env{Home: home})
	assert.NilError(t, err)
	for _, id := range []string{"", ".", "..", "../home", "a/b"} {
		assert.Assert(t, errdefs.IsInvalidArgument(b.Remove(t.Context(), backend.Layer{ID: id})), "%q", id)
		assert.Assert(t, errdefs.IsInvalidArgument(b.Create(t.Context(), backend.Layer{ID: id})), "%q", id)
	}
	_, err = os.Stat(filepath.Join(home, "kept"))
	assert.NilError(t, err)
}
