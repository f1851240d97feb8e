package openat_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend/backendtest"
	"strata/backend/internal/dirfd"
	"strata/backend/internal/layertar/openat"
)

func TestMain(m *testing.M) { os.Exit(backendtest.Main(m)) }

// TestMountPoint holds that no mount point is crossed, where openat2(2) is missing, too.
func TestMountPoint(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts")
	}
	t.Run("openat2", mountPoint)
	t.Run("comparing", func(t *testing.T) { backendtest.OldKernel(t, mountPoint) })
}

func mountPoint(t *testing.T) {
	dir := t.TempDir()
	assert.NilError(t, backendtest.Steps(backendtest.MkdirAll("data/sub"), backendtest.CreateFile("data/file", nil, 0o644),
		backendtest.MkdirAll("layer/a/b"), backendtest.MkdirAll("layer/a/mounted"))(dir))
	target := filepath.Join(dir, "layer/a/mounted")
	assert.NilError(t, unix.Mount(filepath.Join(dir, "data"), target, "", unix.MS_BIND, ""))
	defer func() { assert.NilError(t, unix.Unmount(target, 0)) }()
	root, err := openat.OpenRoot(filepath.Join(dir, "layer"))
	assert.NilError(t, err)
	defer openat.CloseQuietly(root, -1)
	fd, err := openat.OpenDirAt(root, "a/b")
	assert.NilError(t, err)
	openat.CloseQuietly(fd, -1)
	dirs := openat.NewDirReader(root)
	defer dirs.Close()
	for _, path := range []string{"a/mounted", "a/mounted/sub"} {
		_, err := openat.OpenDirAt(root, path)
		assert.Check(t, dirfd.IsMountPoint(err), "%s: %v", path, err)
		_, err = dirs.Dir(path)
		assert.Check(t, dirfd.IsMountPoint(err), "%s: %v", path, err)
	}
	_, err = dirs.File("a/mounted/file")
	assert.Check(t, dirfd.IsMountPoint(err), "%v", err)
}
