package loopfs_test

import (
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"

	"strata/backend/backendtest"
	"strata/backend/internal/loopfs"
)

func TestMain(m *testing.M) { os.Exit(backendtest.Main(m)) }

// TestNew mounts a file system of each kind, and leaves nothing behind when the test ends.
func TestNew(t *testing.T) {
	for _, kind := range []string{"btrfs", "ext4", "tmpfs", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			dir := ""
			t.Run("mounted", func(t *testing.T) {
				dir = loopfs.New(t, kind, loopfs.Small(kind), "")
				mounts, err := loopfs.MountsBelow(dir)
				assert.NilError(t, err)
				assert.DeepEqual(t, mounts, []string{dir})
				assert.Equal(t, len(loopfs.Devices(filepath.Dir(filepath.Dir(dir)))) == 1, kind != "tmpfs")
			})
			if dir == "" {
				t.Skip("needs root: mounts file systems")
			}
			mounts, err := loopfs.MountsBelow(dir)
			assert.NilError(t, err)
			assert.Equal(t, len(mounts), 0)
			assert.Equal(t, len(loopfs.Devices(filepath.Dir(filepath.Dir(dir)))), 0)
		})
	}
}
