package store_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"gotest.tools/v3/assert"

	"strata/backend/backendtest"
	"strata/backend/store"
)

// TestChangesOfDeepTrees holds that a list of changes ends where paths get longer than those of a layer's tar.
func TestChangesOfDeepTrees(t *testing.T) {
	needRoot(t)
	s, err := store.Open(t.Context(), store.Config{Root: filepath.Join(t.TempDir(), "s"), Backend: "dir", New: backendtest.NewDir})
	assert.NilError(t, err)
	defer func() { assert.NilError(t, s.Close(t.Context())) }()
	assert.NilError(t, s.Create(t.Context(), "l", "", store.CreateOptions{}))
	dir, err := s.Mount(t.Context(), "l", store.MountOptions{})
	assert.NilError(t, err)
	assert.NilError(t, backendtest.Deep(strings.Repeat("n", 250), 2500, "x")(dir))
	assert.NilError(t, s.Unmount(t.Context(), "l"))
	count := 0
	for _, err = range s.Changes(t.Context(), "l", "") {
		count++
	}
	assert.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	assert.Assert(t, count > 2000, "%d", count)
	assert.NilError(t, s.Remove(t.Context(), "l"))
	assert.NilError(t, s.Settle(t.Context()))
}
