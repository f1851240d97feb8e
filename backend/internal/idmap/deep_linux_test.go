package idmap_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/backendtest"
	"strata/backend/internal/idmap"
)

// TestChownDeep holds that no depth takes more descriptors or memory, and that what is deep down is changed, too.
func TestChownDeep(t *testing.T) {
	const shifted = 100_000
	ranges := []backend.IDRange{{Host: shifted, Size: 65536}}
	for _, kind := range []string{"ext4", "xfs", "btrfs", "tmpfs"} {
		backendtest.EachDepth(t, kind, func(t *testing.T, dir, name string, levels int) {
			assert.NilError(t, idmap.Chown(t.Context(), dir, nil, &backend.IDMap{UIDs: ranges, GIDs: ranges}))
			assert.NilError(t, backendtest.InDeep(name, levels, false, func(d *os.Root) error {
				for _, path := range []string{"file", "."} {
					fi, err := d.Stat(path)
					assert.NilError(t, err)
					st, ok := fi.Sys().(*syscall.Stat_t)
					assert.Assert(t, ok && st.Uid == shifted && st.Gid == shifted, "%s: %v", path, st)
				}
				return nil
			})(dir))
		})
	}
}

// TestChownOldKernel holds that a bind mount of the same file system stays as it is where openat2(2) is missing, too.
func TestChownOldKernel(t *testing.T) {
	backendtest.OldKernel(t, func(t *testing.T) {
		dir, outside := t.TempDir(), t.TempDir()
		mounted := filepath.Join(dir, "mounted")
		assert.NilError(t, os.Mkdir(mounted, 0o755))
		assert.NilError(t, os.WriteFile(filepath.Join(outside, "file"), nil, 0o644))
		assert.NilError(t, unix.Mount(outside, mounted, "", unix.MS_BIND, ""))
		defer func() { assert.NilError(t, unix.Unmount(mounted, 0)) }()
		ranges := []backend.IDRange{{Host: 100_000, Size: 65536}}
		assert.NilError(t, idmap.Chown(t.Context(), dir, nil, &backend.IDMap{UIDs: ranges, GIDs: ranges}))
		for path, want := range map[string]uint32{dir: 100_000, outside: 0, filepath.Join(outside, "file"): 0} {
			var st unix.Stat_t
			assert.NilError(t, unix.Stat(path, &st))
			assert.Equal(t, st.Uid, want, path)
		}
	})
}
