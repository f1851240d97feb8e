package quota

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend/internal/loopfs"
	"strata/backend/internal/quota/quotatest"
)

// TestLayout holds the sizes of what is shared with the kernel: pahole on fs_disk_quota and fsxattr.
func TestLayout(t *testing.T) {
	assert.Equal(t, unsafe.Sizeof(diskQuota{}), uintptr(112))
	assert.Equal(t, unsafe.Offsetof(diskQuota{}.Bcount), uintptr(40))
	assert.Equal(t, unsafe.Offsetof(diskQuota{}.Rtbtimer), uintptr(96))
	assert.Equal(t, unsafe.Sizeof(attributes{}), uintptr(28))
}

func TestRange(t *testing.T) {
	seen := map[uint32]bool{}
	for _, dir := range []string{"/a", "/b", "/var/lib/strata/overlay", "/mnt/strata/overlay", ""} {
		first := rangeOf(dir)
		assert.Equal(t, first, rangeOf(dir))
		assert.Assert(t, first >= firstID && first%rangeSize == 0, "%d", first)
		assert.Assert(t, uint64(first)+rangeSize <= 1<<31, "%d", first)
		seen[first] = true
	}
	assert.Equal(t, len(seen), 5, "stores share a range")
}

func TestParseIDs(t *testing.T) {
	for name, c := range map[string]struct {
		text  string
		field int
		want  []uint32
	}{
		"projects":  {"# comment\n10:/srv/a\n 11 : /srv/b:c # why\n\nnonsense\n-1:/x\n4294967296:/x\n", 0, []uint32{10, 11}},
		"projid":    {"web:10\nmail:4294967295\n:7\nx\n", 1, []uint32{10, 4294967295, 7}},
		"empty":     {"", 0, nil},
		"long line": {strings.Repeat("x", 60000) + "\n5:/a\n", 0, []uint32{5}},
	} {
		t.Run(name, func(t *testing.T) {
			want := map[uint32]bool{}
			for _, id := range c.want {
				want[id] = true
			}
			got, err := parseIDs(strings.NewReader(c.text), c.field)
			assert.NilError(t, err)
			assert.DeepEqual(t, got, want)
		})
	}
}

// TestAdvice: nobody is told to do what the kernel would not survive.
func TestAdvice(t *testing.T) {
	for _, c := range []struct {
		magic   int64
		without bool
		want    []string
		never   string
	}{
		{unix.EXT4_SUPER_MAGIC, false, []string{"tune2fs -O project,quota -Q prjquota DEVICE", "-o prjquota", "CONFIG_QFMT_V2"}, "leave"},
		{unix.EXT4_SUPER_MAGIC, true, []string{"this kernel has no quota for ext4", "CONFIG_QFMT_V2", "leave the file system as it is"}, "tune2fs"},
		{unix.XFS_SUPER_MAGIC, false, []string{"-o prjquota", "rootflags=prjquota"}, "leave"},
		{unix.XFS_SUPER_MAGIC, true, []string{"this kernel has no quota for xfs", "CONFIG_XFS_QUOTA", "leave the mount options"}, "rootflags"},
		{unix.TMPFS_MAGIC, true, []string{"a store on ext4 or xfs, mounted with -o prjquota"}, "kernel"},
		{0, false, []string{"a store on ext4 or xfs, mounted with -o prjquota"}, "kernel"},
	} {
		text := advice(c.magic, c.without)
		for _, want := range c.want {
			assert.Assert(t, strings.Contains(text, want), "%q: %s", want, text)
		}
		assert.Assert(t, !strings.Contains(text, c.never), "%q: %s", c.never, text)
	}
}

// TestNoQuota holds that a file system without it is refused with what to do, and left as it is.
func TestNoQuota(t *testing.T) {
	for _, fs := range []string{"ext4", "xfs", "btrfs", "tmpfs"} {
		t.Run(fs, func(t *testing.T) {
			dir := loopfs.New(t, fs, loopfs.Small("xfs"), "")
			t.Setenv("TMPDIR", "/missing") // as in a plugin
			_, err := Open(dir)
			assert.Assert(t, errdefs.IsNotImplemented(err), "%v", err)
			assert.ErrorContains(t, err, "size limits need")
			without := errors.Is(err, unix.ENOSYS) && (fs == "ext4" || fs == "xfs")
			assert.Equal(t, strings.Contains(err.Error(), "this kernel has no quota for "+fs), without, "%v", err)
			// A kernel without quotactl_fd says the same of a file system that is on a device.
			f, err := os.Open(dir)
			assert.NilError(t, err)
			defer f.Close()
			_, err = getState(f)
			buf := [stateSize]byte{1} // as getState does
			old := callByDevice(f, xGetStateV<<8|projectType, 0, unsafe.Pointer(&buf))
			if fs == "ext4" || fs == "xfs" {
				var number, oldNumber unix.Errno
				assert.Assert(t, errors.As(err, &number) == errors.As(old, &oldNumber))
				assert.Equal(t, oldNumber, number)
			}
			assert.Assert(t, !errors.Is(old, os.ErrNotExist), "%v", old)
			left, err := filepath.Glob(nodeDir + "/.strata-quota-*")
			assert.NilError(t, err)
			assert.Equal(t, len(left), 0, "%q", left)
		})
	}
}

// fill writes a file as a process without CAP_SYS_RESOURCE does.
func fill(t *testing.T, path string, size int) (err error) {
	t.Helper()
	quotatest.Bounded(t, func() { err = os.WriteFile(path, bytes.Repeat([]byte("x"), size), 0o644) })
	return err
}

func full(err error) bool { return errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.ENOSPC) }

func TestLimit(t *testing.T) {
	for _, fs := range []string{"ext4", "xfs"} {
		t.Run(fs, func(t *testing.T) { testLimit(t, quotatest.FS(t, fs)) })
	}
}

func testLimit(t *testing.T, root string) {
	t.Helper()
	p, err := Open(root)
	assert.NilError(t, err)
	defer func() { assert.NilError(t, p.Close()) }()
	a, b := filepath.Join(root, "a"), filepath.Join(root, "b")
	for _, d := range []string{a, b, filepath.Join(a, "sub")} {
		assert.NilError(t, os.Mkdir(d, 0o755))
	}
	assert.NilError(t, fill(t, filepath.Join(a, "sub/before"), 1<<20))
	assert.NilError(t, os.Symlink("/etc", filepath.Join(a, "link")))

	_, _, err = p.Usage(a)
	assert.Assert(t, errdefs.IsNotFound(err), "%v", err)
	assert.NilError(t, p.Limit(t.Context(), a, 0)) // nothing to lift
	assert.NilError(t, p.Limit(t.Context(), a, 2<<20))
	assert.NilError(t, p.Limit(t.Context(), a, 2<<20))
	used, inodes, err := p.Usage(a)
	assert.NilError(t, err)
	assert.Assert(t, used >= 1<<20 && used < 1<<20+64<<10, "%d", used)
	assert.Equal(t, inodes, int64(3), "the directories and the file")

	assert.Assert(t, full(fill(t, filepath.Join(a, "more"), 3<<20)))
	assert.NilError(t, os.Remove(filepath.Join(a, "more")))
	assert.NilError(t, p.Limit(t.Context(), b, 8<<20))
	assert.NilError(t, fill(t, filepath.Join(b, "more"), 3<<20), "every directory has its own limit")
	assert.NilError(t, p.Limit(t.Context(), a, 0))
	assert.NilError(t, fill(t, filepath.Join(a, "more"), 3<<20))

	// Another process finds the numbers in the directories, and does not give them out again.
	again, err := Open(root)
	assert.NilError(t, err)
	defer func() { assert.NilError(t, again.Close()) }()
	c := filepath.Join(root, "c")
	assert.NilError(t, os.Mkdir(c, 0o755))
	assert.NilError(t, again.Limit(t.Context(), c, 1<<20))
	numbers := map[uint32]bool{}
	for _, d := range []string{a, b, c} {
		id, err := again.numberOf(d)
		assert.NilError(t, err)
		assert.Assert(t, id >= p.base && id < p.base+rangeSize, "%d", id)
		numbers[id] = true
	}
	assert.Equal(t, len(numbers), 3)

	assert.NilError(t, p.Remove(b))
	assert.NilError(t, p.Remove(b))
	assert.NilError(t, p.Remove(filepath.Join(root, "missing")))
	id, err := p.numberOf(b)
	assert.NilError(t, err)
	q, err := getQuota(p.root, id)
	assert.NilError(t, err)
	assert.Equal(t, q.BlkHard, uint64(0))
	assert.Assert(t, q.Bcount > 0)
	var same diskQuota // as on kernels without quotactl_fd
	assert.NilError(t, callByDevice(p.root, xGetQuota<<8|projectType, id, unsafe.Pointer(&same)))
	assert.DeepEqual(t, same, q)
	assert.Assert(t, errdefs.IsInvalidArgument(p.Limit(t.Context(), a, -1)))
}
