package all_test

import (
	"os"
	"reflect"
	"testing"

	"github.com/containerd/errdefs"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/all"
)

func TestBackends(t *testing.T) {
	names := map[string]bool{}
	for _, d := range all.Backends() {
		t.Run(d.Name, func(t *testing.T) {
			assert.Assert(t, !names[d.Name], "the name is there twice")
			names[d.Name] = true
			assert.Assert(t, d.Summary != "")
			a, b := d.Config(), d.Config()
			assert.DeepEqual(t, a, b)
			assert.Equal(t, reflect.TypeOf(a).Elem().Kind(), reflect.Struct)
			if reflect.TypeOf(a).Elem().Size() > 0 {
				assert.Assert(t, a != b, "two stores would share one configuration")
			}
			_, err := d.Open(t.Context(), backend.Env{}, "options")
			assert.Assert(t, errdefs.IsInvalidArgument(err), "%v", err)
		})
	}
}

// TestVFSOpens opens the one backend that works on every file system.
func TestVFSOpens(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: gives files to their owners")
	}
	for _, d := range all.Backends() {
		if d.Name != "vfs" {
			continue
		}
		b, err := d.Open(t.Context(), backend.Env{Home: t.TempDir()}, d.Config())
		assert.NilError(t, err)
		l := backend.Layer{ID: "a"}
		assert.NilError(t, b.Create(t.Context(), l))
		assert.NilError(t, b.Remove(t.Context(), l))
		return
	}
	t.Fatal("vfs is not in the list")
}
