package dirfd_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend/backendtest"
	"strata/backend/internal/dirfd"
)

// TestOpenBeneath holds that no path leads out of a directory, over a mount point or through a link, where openat2(2)
// is missing, too, and that its length does not matter.
func TestOpenBeneath(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts")
	}
	t.Run("openat2", openBeneath)
	t.Run("comparing", func(t *testing.T) { backendtest.OldKernel(t, openBeneath) })
}

func openBeneath(t *testing.T) {
	dir := t.TempDir()
	apply(t, dir, backendtest.MkdirAll("data/sub/deep"), backendtest.MkdirAll("t/a/b"), backendtest.MkdirAll("t/mounted"),
		backendtest.CreateFile("t/a/file", nil, 0o644), backendtest.Symlink("a", "t/link"), backendtest.Symlink("file", "t/a/end"))
	target := filepath.Join(dir, "t", "mounted")
	assert.NilError(t, unix.Mount(filepath.Join(dir, "data"), target, "", unix.MS_BIND, ""))
	defer func() { assert.NilError(t, unix.Unmount(target, 0)) }()
	name := strings.Repeat("n", 250)
	apply(t, filepath.Join(dir, "t"), backendtest.Deep(name, 40, ""))
	far := strings.Repeat(name+"/", 39) + name
	root, err := dirfd.Open(filepath.Join(dir, "t"))
	assert.NilError(t, err)
	defer root.Close()
	for path, want := range map[string]error{
		".": nil, "a": nil, "a/b": nil, "./a/b": nil, far: nil,
		"missing": unix.ENOENT, "a/missing/b": unix.ENOENT, far + "/missing": unix.ENOENT, "": unix.ENOENT,
		"a/file": unix.ENOTDIR, "a/file/b": unix.ENOTDIR, "link": unix.ENOTDIR, "link/b": unix.ENOTDIR,
		"..": unix.EINVAL, "a/../a": unix.EINVAL, "a/..": unix.EINVAL, "/tmp": unix.EINVAL,
		strings.Repeat("x", 5000): unix.ENAMETOOLONG, strings.Repeat("x", 300): unix.ENAMETOOLONG,
	} {
		d, err := root.Open(path)
		if want != nil {
			assert.Check(t, errors.Is(err, want), "%.100s: %v", path, err)
			continue
		}
		assert.NilError(t, err)
		d.Close()
	}
	for _, path := range []string{"mounted", "mounted/sub", "mounted/sub/deep"} {
		_, err := root.Open(path)
		assert.Check(t, dirfd.IsMountPoint(err), "%s: %v", path, err)
		_, err = root.Lstat(path)
		assert.Check(t, dirfd.IsMountPoint(err), "%s: %v", path, err)
	}
	for path, want := range map[string]uint32{"a/end": unix.S_IFLNK, "link": unix.S_IFLNK, "a/file": unix.S_IFREG, far: unix.S_IFDIR} {
		st, err := root.Lstat(path)
		assert.NilError(t, err)
		assert.Equal(t, st.Mode&unix.S_IFMT, want)
	}
}
