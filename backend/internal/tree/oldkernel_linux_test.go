package tree_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend/backendtest"
	"strata/backend/internal/tree"
)

// TestOldKernel holds that walks cross no mount point where openat2(2) is missing, and do all else.
func TestOldKernel(t *testing.T) {
	backendtest.OldKernel(t, func(t *testing.T) {
		dir := t.TempDir()
		apply(t, dir, backendtest.MkdirAll("data"), backendtest.CreateFile("data/keep", nil, 0o644))
		src, dst := filepath.Join(dir, "t"), filepath.Join(dir, "copy")
		apply(t, dir, backendtest.MkdirAll("t/mounted"), backendtest.Mkdir("t/plain", 0o755), backendtest.CreateFile("t/plain/f", nil, 0o644))
		target := filepath.Join(src, "mounted")
		assert.NilError(t, unix.Mount(filepath.Join(dir, "data"), target, "", unix.MS_BIND, ""))
		for name, walk := range map[string]func() error{
			"copy":   func() error { return tree.Copy(t.Context(), src, dst) },
			"remove": func() error { return tree.RemoveAll(t.Context(), src) },
		} {
			err := walk()
			assert.Check(t, errdefs.IsFailedPrecondition(err), "%s: %v", name, err)
		}
		_, err := os.Stat(filepath.Join(dir, "data", "keep"))
		assert.NilError(t, err)
		apply(t, src, backendtest.MkdirAll("plain/sub"), backendtest.CreateFile("plain/f", nil, 0o644))
		got, err := tree.Usage(t.Context(), src)
		assert.NilError(t, err)
		assert.Equal(t, got.Inodes, int64(4)) // not what is mounted
		assert.NilError(t, unix.Unmount(target, 0))
		assert.NilError(t, tree.RemoveAll(t.Context(), dst))
		assert.NilError(t, tree.Copy(t.Context(), src, dst))
		got, err = tree.Usage(t.Context(), dst)
		assert.NilError(t, err)
		assert.Equal(t, got.Inodes, int64(5))
		assert.NilError(t, tree.RemoveAll(t.Context(), src))
		assertGone(t, src)
	})
}
