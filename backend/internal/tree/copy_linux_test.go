package tree_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/backendtest"
	"strata/backend/internal/loopfs"
	"strata/backend/internal/tree"
)

// longAgo is a time that no test could have set by accident.
var longAgo = time.Date(2001, 2, 3, 4, 5, 6, 789012345, time.UTC)

// oddities makes everything that a copy may get wrong.
func oddities() backendtest.Step {
	const capability = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" // cap_net_bind_service=ep
	return backendtest.Steps(
		backendtest.MkdirAll("d/e"), backendtest.CreateFile("d/e/setuid", []byte("s"), 0o755|os.ModeSetuid|os.ModeSetgid),
		backendtest.Chown("d/e/setuid", 12, 34), backendtest.Chmod("d/e/setuid", 0o4755|os.ModeSetuid),
		backendtest.CreateFile("cap", []byte("c"), 0o755), backendtest.Chown("cap", 1, 2), backendtest.SetXattr("cap", "security.capability", capability),
		backendtest.SetXattr("d", "trusted.x", strings.Repeat("v", 700)), backendtest.SetXattr("d/e", "trusted.empty", ""),
		backendtest.Link("cap", "d/e/link"), backendtest.Link("cap", "0"),
		backendtest.Symlink("/outside", "sym"), backendtest.SetXattr("sym", "trusted.s", "1"), backendtest.Chown("sym", 5, 6), backendtest.SetTime("sym", longAgo),
		backendtest.Symlink(strings.Repeat("x", 1000), "longsym"), backendtest.Link("longsym", "longsym2"),
		backendtest.Fifo("fifo", 0o640), backendtest.CharDevice("char", 0o666, 1, 3), backendtest.BlockDevice("block", 0o600, 7, 300),
		backendtest.CharDevice("whiteout", 0, 0, 0), backendtest.Chown("char", 0, 6),
		backendtest.CreateFile("empty", nil, 0), backendtest.SetTime("empty", longAgo),
		backendtest.SparseFile("sparse", 40<<20, 20<<20, []byte("data in the middle")),
		backendtest.SparseFile("hole", 5<<20, 0, nil), backendtest.CreateFile("large", backendtest.Noise(1, 3<<20), 0o644),
		backendtest.Mkdir("sticky", 0o777|os.ModeSticky), backendtest.Chown("d", 7, 8), backendtest.CreateFile("name with \n newline", nil, 0o644),
		backendtest.SetTime("d/e", longAgo), backendtest.SetTime("d", longAgo.Add(1)),
	)
}

func readTree(t *testing.T, dir string) backendtest.Tree {
	t.Helper()
	tr, err := backendtest.ReadTree(dir)
	assert.NilError(t, err)
	return tr
}

func TestCopy(t *testing.T) {
	onEach(t, func(t *testing.T, dir string) {
		defer backendtest.NewLedger(t, dir).Check(t)
		src := filepath.Join(dir, "src")
		apply(t, dir, backendtest.Mkdir("src", 0o711), backendtest.Chown("src", 3, 4))
		apply(t, src, oddities(), backendtest.Root(5, 800))
		assert.NilError(t, unix.Mknod(filepath.Join(src, "socket"), unix.S_IFSOCK|0o600, 0))
		dst := filepath.Join(dir, "dst")
		assert.NilError(t, tree.Copy(t.Context(), src, dst))
		want := readTree(t, src)
		delete(want, "socket")
		assert.Equal(t, backendtest.Diff(want, readTree(t, dst)), "")
		fi, err := os.Stat(src)
		assert.NilError(t, err)
		copied, err := os.Stat(dst)
		assert.NilError(t, err)
		assert.Equal(t, copied.ModTime(), fi.ModTime())
		// Holes stay holes.
		for _, name := range []string{"sparse", "hole"} {
			var st unix.Stat_t
			assert.NilError(t, unix.Stat(filepath.Join(dst, name), &st))
			assert.Assert(t, st.Blocks*512 < 1<<20, "%s has %d blocks", name, st.Blocks)
		}
		err = tree.Copy(t.Context(), src, dst)
		assert.ErrorIs(t, err, unix.ENOTEMPTY)
	})
}

// TestCopyAcross copies between file systems, without reflinks, with copy_file_range and without.
func TestCopyAcross(t *testing.T) {
	xfs := loopfs.New(t, "xfs", fsSize, "")
	for _, kind := range []string{"ext4", "btrfs", "tmpfs"} {
		t.Run(kind, func(t *testing.T) {
			dir := loopfs.New(t, kind, fsSize, "")
			src, dst := filepath.Join(xfs, kind), filepath.Join(dir, "dst")
			apply(t, xfs, backendtest.Mkdir(kind, 0o755))
			apply(t, src, oddities())
			assert.NilError(t, os.Mkdir(dst, 0o700)) // an empty directory will do
			assert.NilError(t, tree.Copy(t.Context(), src, dst))
			assert.Equal(t, backendtest.Diff(readTree(t, src), readTree(t, dst)), "")
		})
	}
}

// TestCopyReflinks holds that a copy takes no space where it need not.
func TestCopyReflinks(t *testing.T) {
	for _, kind := range []string{"xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			dir := loopfs.New(t, kind, fsSize, "")
			apply(t, dir, backendtest.Mkdir("src", 0o755), backendtest.CreateFile("src/f", backendtest.Noise(2, 64<<20), 0o644))
			before := freeBytes(t, dir)
			assert.NilError(t, tree.Copy(t.Context(), filepath.Join(dir, "src"), filepath.Join(dir, "dst")))
			used := before - freeBytes(t, dir)
			assert.Assert(t, used < 8<<20, "the copy of 64 MiB took %d bytes", used)
		})
	}
}

func freeBytes(t *testing.T, dir string) int64 {
	t.Helper()
	f, err := os.Open(dir)
	assert.NilError(t, err)
	defer f.Close()
	assert.NilError(t, unix.Syncfs(int(f.Fd())))
	var st unix.Statfs_t
	assert.NilError(t, unix.Fstatfs(int(f.Fd()), &st))
	return int64(st.Bfree) * st.Bsize
}

func TestCopyErrors(t *testing.T) {
	requireRoot(t)
	dir := t.TempDir()
	apply(t, dir, backendtest.MkdirAll("src/sub"), backendtest.CreateFile("src/f", backendtest.Noise(1, 100), 0o644))
	src := filepath.Join(dir, "src")
	t.Run("missing", func(t *testing.T) {
		assert.ErrorIs(t, tree.Copy(t.Context(), filepath.Join(dir, "no"), filepath.Join(dir, "dst")), unix.ENOENT)
		assertGone(t, filepath.Join(dir, "dst"))
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		assert.ErrorIs(t, tree.Copy(ctx, src, filepath.Join(dir, "cancelled")), context.Canceled)
	})
	t.Run("disk full", func(t *testing.T) {
		small := loopfs.New(t, "tmpfs", 1<<20, "")
		apply(t, dir, backendtest.CreateFile("src/big", backendtest.Noise(1, 4<<20), 0o644))
		assert.ErrorIs(t, tree.Copy(t.Context(), src, filepath.Join(small, "dst")), unix.ENOSPC)
	})
	t.Run("mount point", func(t *testing.T) {
		assert.NilError(t, unix.Mount("tmpfs", filepath.Join(src, "sub"), "tmpfs", 0, ""))
		err := tree.Copy(t.Context(), src, filepath.Join(dir, "mounted"))
		assert.NilError(t, unix.Unmount(filepath.Join(src, "sub"), 0))
		assert.Assert(t, errdefs.IsFailedPrecondition(err), "%v", err)
	})
}

// TestUsage compares with du(1), which counts the same way.
func TestUsage(t *testing.T) {
	onEach(t, func(t *testing.T, dir string) {
		defer backendtest.NewLedger(t, dir).Check(t)
		root := filepath.Join(dir, "root")
		apply(t, dir, backendtest.Mkdir("root", 0o755))
		apply(t, root, oddities(), backendtest.Root(6, 500))
		freeBytes(t, dir) // for its sync: delayed allocation changes st_blocks
		got, err := tree.Usage(t.Context(), root)
		assert.NilError(t, err)
		want := backend.Usage{Size: du(t, "-B1", root), Inodes: du(t, "--inodes", root)}
		assert.DeepEqual(t, got, want)

		mounted := filepath.Join(root, "sticky")
		assert.NilError(t, unix.Mount("tmpfs", mounted, "tmpfs", 0, ""))
		apply(t, mounted, backendtest.CreateFile("big", backendtest.Noise(1, 1<<20), 0o644))
		got, err = tree.Usage(t.Context(), root)
		assert.NilError(t, unix.Unmount(mounted, 0))
		assert.NilError(t, err)
		assert.Equal(t, got.Inodes, want.Inodes-1)
		assert.Assert(t, got.Size <= want.Size, "%d", got.Size)
	})
	_, err := tree.Usage(t.Context(), filepath.Join(t.TempDir(), "no"))
	assert.ErrorIs(t, err, unix.ENOENT)
}

func du(t *testing.T, args ...string) int64 {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "du", append([]string{"-s"}, args...)...).Output()
	assert.NilError(t, err)
	n, err := strconv.ParseInt(strings.Fields(string(out))[0], 10, 64)
	assert.NilError(t, err)
	return n
}

// TestDeep holds that no depth takes more descriptors or memory, and that what is deep down is copied, too.
func TestDeep(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs", "btrfs", "tmpfs"} {
		backendtest.EachDepth(t, kind, func(t *testing.T, src, name string, levels int) {
			bottom := func(f func(*os.Root) error) backendtest.Step { return backendtest.InDeep(name, levels, false, f) }
			apply(t, src, bottom(func(d *os.Root) error { return d.Link("file", "link") }))
			dst := src + "-copy"
			assert.NilError(t, tree.Copy(t.Context(), src, dst))
			apply(t, dst, bottom(func(d *os.Root) error {
				a, err := d.Stat("file")
				assert.NilError(t, err)
				b, err := d.Stat("link")
				assert.NilError(t, err)
				assert.Assert(t, os.SameFile(a, b) && a.Size() == 1)
				return nil
			}))
			for _, root := range []string{src, dst} {
				got, err := tree.Usage(t.Context(), root)
				assert.NilError(t, err)
				assert.Equal(t, got.Inodes, int64(levels+2))
				assert.NilError(t, tree.RemoveAll(t.Context(), root))
				assertGone(t, root)
			}
		})
	}
}
