package store_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"gotest.tools/v3/assert"

	"strata/backend/store"
)

// TestInspect: what a store promised can be read while another process has it open.
func TestInspect(t *testing.T) {
	_, err := store.Inspect(t.TempDir())
	assert.Assert(t, errdefs.IsNotFound(err), "%v", err)
	c := config(t)
	s := open(t, c)
	info, err := s.Info(t.Context())
	assert.NilError(t, err)
	got, err := store.Inspect(c.Root)
	assert.NilError(t, err)
	assert.DeepEqual(t, got, store.Meta{
		Format: info.Format, UUID: info.UUID, Backend: info.Backend, ExactDiffs: info.ExactDiffs, Created: info.Created,
	})
	for _, bad := range []struct {
		text, says string
		is         func(error) bool
	}{
		{"", "no complete line", errdefs.IsDataLoss},
		{`{"format":1,"backend":"vfs"}` + "\n00000000\n", "edited or is damaged: the store holds no layers", errdefs.IsDataLoss},
		{`{"format":2,"backend":"vfs"}` + "\n3d34b01d\n", "format 2, this version of strata knows format 1", errdefs.IsFailedPrecondition},
	} {
		assert.NilError(t, os.WriteFile(filepath.Join(c.Root, "strata.json"), []byte(bad.text), 0o600))
		_, err := store.Inspect(c.Root)
		assert.ErrorContains(t, err, bad.says)
		assert.Assert(t, bad.is(err), "%v", err)
	}
}
