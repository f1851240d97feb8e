package ioctl_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend/btrfs/ioctl"
	"strata/backend/internal/loopfs"
)

func open(t *testing.T, path string) (fd int, inode uint64) {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	assert.NilError(t, err)
	t.Cleanup(func() { assert.Check(t, unix.Close(fd)) })
	var st unix.Stat_t
	assert.NilError(t, unix.Fstat(fd, &st))
	return fd, st.Ino
}

// TestKernel asks a real kernel about a subvolume, one inside it, and a snapshot of both.
func TestKernel(t *testing.T) {
	loopfs.RequireRoot(t)
	dir := loopfs.New(t, "btrfs", loopfs.Small("btrfs"), "")
	home, _ := open(t, dir)
	ctx := t.Context()
	assert.NilError(t, ioctl.CreateSubvolume(home, "base"))
	base, root := open(t, filepath.Join(dir, "base"))
	assert.Equal(t, root, uint64(ioctl.RootDir))
	deep := filepath.Join(dir, "base/a/b")
	assert.NilError(t, os.MkdirAll(deep, 0o755))
	assert.NilError(t, os.WriteFile(filepath.Join(deep, "old"), []byte("old"), 0o600))
	inner, inode := open(t, deep)
	assert.NilError(t, ioctl.CreateSubvolume(inner, "nested"))
	assert.NilError(t, ioctl.CreateSnapshot(home, "copy", base))
	snapshot, _ := open(t, filepath.Join(dir, "copy"))

	was, err := ioctl.SubvolumeOf(base)
	assert.NilError(t, err)
	is, err := ioctl.SubvolumeOf(snapshot)
	assert.NilError(t, err)
	assert.Equal(t, is.ParentUUID, was.UUID)
	found, ok, err := ioctl.SubvolumeByUUID(ctx, home, is.UUID)
	assert.Assert(t, ok && err == nil && found.ID == is.ID && found.ParentUUID == was.UUID, "%v %v", found, err)
	_, ok, err = ioctl.SubvolumeByUUID(ctx, home, ioctl.UUID{1})
	assert.Assert(t, !ok && err == nil, "%v", err)
	made, err := ioctl.SnapshotMade(ctx, home, is.ID)
	assert.NilError(t, err)
	assert.Equal(t, made, is.Created)
	made, err = ioctl.SnapshotMade(ctx, home, was.ID)
	assert.Assert(t, made == 0 && err == nil, "%v", err)

	path, err := ioctl.PathOf(home, was.ID, inode)
	assert.NilError(t, err)
	assert.Equal(t, path, "a/b")
	inside, err := ioctl.NestedIn(ctx, home, was.ID)
	assert.NilError(t, err)
	assert.Assert(t, len(inside) == 1 && inside[0].Dir == inode && inside[0].Name == "nested", "%v", inside)
	testWalk(t, filepath.Join(dir, "copy"), snapshot, is)

	assert.NilError(t, ioctl.SetReadOnly(snapshot, true))
	sealed, err := ioctl.ReadOnly(snapshot)
	assert.Assert(t, sealed && err == nil, "%v", err)
	assert.ErrorIs(t, os.WriteFile(filepath.Join(dir, "copy/x"), nil, 0o600), unix.EROFS)
	q, err := ioctl.QuotaOf(ctx, home)
	assert.Assert(t, q == ioctl.QuotaOff && err == nil, "%v %v", q, err)
	assert.ErrorIs(t, ioctl.DestroySubvolume(home, "base"), unix.ENOTEMPTY)
	assert.NilError(t, ioctl.DestroySubvolume(inner, "nested"))
	assert.NilError(t, ioctl.DestroySubvolume(home, "base"))
	assert.NilError(t, ioctl.DestroyQgroup(home, was.ID))
	assert.ErrorIs(t, ioctl.DestroySubvolume(home, "base"), unix.ENOENT)
}

// testWalk holds that a search since the snapshot finds what was written since, with its names.
func testWalk(t *testing.T, dir string, fd int, is ioctl.Subvolume) {
	t.Helper()
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "a/new"), make([]byte, 64<<10), 0o600))
	var file, above unix.Stat_t
	assert.NilError(t, unix.Lstat(filepath.Join(dir, "a/new"), &file))
	assert.NilError(t, unix.Lstat(filepath.Join(dir, "a"), &above))
	assert.NilError(t, ioctl.Sync(fd))
	changed, names, size := map[uint64]ioctl.Inode{}, map[uint64]uint64{}, int64(0)
	assert.NilError(t, ioctl.Walk(t.Context(), fd, 0, is.Created, ioctl.Visitor{
		Inode: func(n ioctl.Inode) {
			if n.Changed > is.Created {
				changed[n.Number] = n
			}
		},
		Name: func(inode, dir uint64) { names[inode] = dir },
		Extent: func(e ioctl.Extent) {
			if e.Written > is.Created {
				size += e.Bytes
			}
		},
	}))
	assert.DeepEqual(t, slices.Sorted(maps.Keys(changed)), []uint64{above.Ino, file.Ino})
	assert.Assert(t, changed[file.Ino].Created > is.Created && changed[above.Ino].Created <= is.Created && changed[file.Ino].Links == 1)
	assert.Equal(t, names[file.Ino], above.Ino)
	assert.Equal(t, size, int64(64<<10))
	dirs, err := ioctl.ParentsOf(t.Context(), fd, file.Ino)
	assert.NilError(t, err)
	assert.DeepEqual(t, dirs, []uint64{above.Ino})
}
