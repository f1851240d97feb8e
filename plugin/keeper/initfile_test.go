package keeper

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"gotest.tools/v3/assert"

	"strata/backend"
)

func TestR02InitFileRoundTrip(t *testing.T) {
	file := filepath.Join(t.TempDir(), "init.json")
	for _, want := range []Init{
		{Home: "/a"},
		{Home: "/a b\n\"\\é", Opts: []string{"x=y", "", "=\x01"}},
		{Home: "/a", UIDMaps: []backend.IDRange{{Container: 0, Host: 1<<32 - 2, Size: 1}}, GIDMaps: []backend.IDRange{{Size: 5}}},
	} {
		assert.NilError(t, saveInit(file, "v1", want))
		got, err := loadInit(file)
		assert.NilError(t, err)
		assert.DeepEqual(t, got, want)
	}
	fi, err := os.Stat(file)
	assert.NilError(t, err)
	assert.Equal(t, fi.Mode().Perm(), os.FileMode(0o600))
}

// TestR02InitFileIsReplacedWhole: what a crash left of an earlier attempt is overwritten, and a
// failure leaves the old file as it was.
func TestR02InitFileIsReplacedWhole(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "init.json")
	assert.NilError(t, os.WriteFile(file+".tmp", make([]byte, 10_000), 0o600))
	assert.NilError(t, saveInit(file, "v1", Init{Home: "/a"}))
	got, err := loadInit(file)
	assert.NilError(t, err)
	assert.DeepEqual(t, got, Init{Home: "/a"})
	_, err = os.Lstat(file + ".tmp")
	assert.ErrorIs(t, err, os.ErrNotExist)

	assert.NilError(t, os.MkdirAll(file+".tmp/full", 0o700)) // the write fails, for root too
	assert.ErrorContains(t, saveInit(file, "v1", Init{Home: "/b"}), file)
	got, err = loadInit(file)
	assert.NilError(t, err)
	assert.DeepEqual(t, got, Init{Home: "/a"})

	assert.ErrorIs(t, saveInit(filepath.Join(dir, "none", "init.json"), "v1", Init{Home: "/a"}), os.ErrNotExist)
}

// A map that Linux would not take is refused before any layer is stored with it.
func TestRefusedMaps(t *testing.T) {
	good := []backend.IDRange{{Host: 7, Size: 9}}
	assert.NilError(t, Init{Home: "/h", UIDMaps: good, GIDMaps: good}.check())
	for name, bad := range map[string][]backend.IDRange{
		"beyond 2^32": {{Host: 4294967000, Size: 65536}},
		"up to 2^32":  {{Host: 1, Size: 4294967295}},
		"overlap":     {{Host: 7, Size: 9}, {Container: 8, Host: 100, Size: 9}},
	} {
		for _, i := range []Init{{Home: "/h", UIDMaps: bad, GIDMaps: good}, {Home: "/h", UIDMaps: good, GIDMaps: bad}} {
			assert.Assert(t, errdefs.IsInvalidArgument(i.check()), "%s: %v", name, i.check())
		}
	}
}
