package ioctl

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
)

// TestLayouts holds the sizes of what is passed to the kernel against include/uapi/linux/btrfs.h.
func TestLayouts(t *testing.T) {
	for name, c := range map[string]struct{ got, want uintptr }{
		"btrfs_ioctl_vol_args":             {unsafe.Sizeof(volArgs{}), 4096},
		"btrfs_ioctl_vol_args_v2":          {unsafe.Sizeof(volArgsV2{}), 4096},
		"btrfs_ioctl_get_subvol_info_args": {unsafe.Sizeof(Subvolume{}), 504},
		"btrfs_ioctl_ino_lookup_args":      {unsafe.Sizeof(lookup{}), 4096},
		"btrfs_ioctl_search_key":           {unsafe.Sizeof(searchKey{}), 104},
		"btrfs_ioctl_search_args_v2":       {unsafe.Sizeof(searchHeader{}), 112},
		"btrfs_ioctl_qgroup_limit_args":    {unsafe.Sizeof(qgroupLimit{}), 48},
		"btrfs_ioctl_qgroup_create_args":   {unsafe.Sizeof(qgroupCreate{}), 16},
		"offset of uuid in subvol info":    {unsafe.Offsetof(Subvolume{}.UUID), 296},
		"offset of otransid":               {unsafe.Offsetof(Subvolume{}.Created), 352},
	} {
		assert.Equal(t, c.got, c.want, name)
	}
	// As strace(1) prints BTRFS_IOC_SNAP_CREATE_V2, BTRFS_IOC_TREE_SEARCH_V2 and BTRFS_IOC_SYNC on x86.
	assert.Equal(t, request(dirIn, nrSnapCreateV2, 4096), uintptr(0x50009417))
	assert.Equal(t, request(dirBoth, nrTreeSearchV2, 112), uintptr(0xc0709411))
	assert.Equal(t, request(dirNone, nrSync, 0), uintptr(0x9408))
}

func TestNextKey(t *testing.T) {
	const most = ^uint64(0)
	for _, c := range []struct {
		from, want key
		ok         bool
	}{
		{key{1, 2, 3}, key{1, 2, 4}, true},
		{key{1, 2, most}, key{1, 3, 0}, true},
		{key{1, 255, most}, key{2, 0, 0}, true},
		{key{most, 255, most}, key{}, false},
	} {
		got, ok := c.from.next()
		assert.Equal(t, ok, c.ok)
		if ok {
			assert.Equal(t, got, c.want)
		}
	}
}

// answer builds what a tree search writes.
func answer(items ...item) []byte {
	var b []byte
	for _, i := range items {
		b = binary.NativeEndian.AppendUint64(b, 77) // transid
		b = binary.NativeEndian.AppendUint64(b, i.object)
		b = binary.NativeEndian.AppendUint64(b, i.offset)
		b = binary.NativeEndian.AppendUint32(b, i.kind)
		b = binary.NativeEndian.AppendUint32(b, uint32(len(i.data)))
		b = append(b, i.data...)
	}
	return b
}

// Items as btrfs writes them.
func inodeData(generation, transid uint64, links uint32) []byte {
	b := make([]byte, inodeItemSize)
	binary.LittleEndian.PutUint64(b, generation)
	binary.LittleEndian.PutUint64(b[8:], transid)
	binary.LittleEndian.PutUint32(b[40:], links)
	return b
}

func refData(names ...string) []byte {
	var b []byte
	for i, n := range names {
		b = binary.LittleEndian.AppendUint64(b, uint64(i+2))
		b = binary.LittleEndian.AppendUint16(b, uint16(len(n)))
		b = append(b, n...)
	}
	return b
}

func extrefData(parent uint64, name string) []byte {
	return append(binary.LittleEndian.AppendUint64(nil, parent), refData(name)...)
}

func extentData(generation, address, bytes uint64) []byte {
	b := make([]byte, extentSize)
	b[20] = 1
	binary.LittleEndian.PutUint64(b, generation)
	binary.LittleEndian.PutUint64(b[21:], address)
	binary.LittleEndian.PutUint64(b[29:], bytes)
	return b
}

func rootRefData(dir uint64, name string) []byte {
	return append(binary.LittleEndian.AppendUint64(nil, dir), refData(name)...)
}

func TestParse(t *testing.T) {
	n, ok := parseInode(item{key{9, typeInode, 0}, inodeData(5, 6, 7)})
	assert.Assert(t, ok && n == Inode{9, 5, 6, 7})
	_, ok = parseInode(item{key{9, typeInode, 0}, inodeData(5, 6, 7)[1:]})
	assert.Assert(t, !ok)

	assert.DeepEqual(t, slices.Collect(names(item{key{1, typeInodeRef, 9}, refData("a", "bc")})), []uint64{9, 9})
	both := append(extrefData(10, "a"), extrefData(11, "b")...)
	assert.DeepEqual(t, slices.Collect(names(item{key{1, typeInodeExtref, 9}, both})), []uint64{10, 11})
	assert.DeepEqual(t, slices.Collect(names(item{key{1, typeInodeExtref, 9}, both[:len(both)-1]})), []uint64{10})

	e, ok := parseExtent(extentData(3, 4, 5))
	assert.Assert(t, ok && e == Extent{3, 4, 5})
	e, ok = parseExtent(append(make([]byte, inlineHeader), "inline"...))
	assert.Assert(t, ok && e == Extent{0, 0, 6})
	_, ok = parseExtent(extentData(3, 4, 5)[:extentSize-1])
	assert.Assert(t, !ok)

	r, ok := parseNested(item{key{5, typeRootRef, 300}, rootRefData(256, "sub")})
	assert.Assert(t, ok && r == Nested{300, 256, "sub"})
	_, ok = parseNested(item{key{5, typeRootRef, 300}, rootRefData(256, "sub")[:20]})
	assert.Assert(t, !ok)
	_, ok = parseRoot(make([]byte, 239)) // of before Linux 3.6
	assert.Assert(t, !ok)
}

// FuzzItems: whatever a search answers, reading it ends and stays within the answer.
func FuzzItems(f *testing.F) {
	f.Add(answer(), uint32(0))
	f.Add(answer(), uint32(1))
	f.Add(answer(
		item{key{257, typeInode, 0}, inodeData(8, 9, 1)}, item{key{257, typeInodeRef, 256}, refData("name")},
		item{key{257, typeExtentData, 0}, extentData(9, 1<<20, 4096)},
	), uint32(3))
	f.Add(answer(item{key{257, typeInodeExtref, 1}, extrefData(256, "x")}, item{key{5, typeRootRef, 258}, rootRefData(256, "s")}), uint32(2))
	f.Add(answer(item{key{257, typeRoot, 0}, make([]byte, 439)}, item{key{1, typeInodeRef, 0}, []byte{0, 0, 0, 0, 0, 0, 0, 0, 255, 255}}), uint32(9))
	f.Add(answer(item{key{257, typeExtentData, 0}, make([]byte, 22)})[:50], uint32(1))
	f.Fuzz(func(t *testing.T, buf []byte, n uint32) {
		read := 0
		_, err := eachItem(buf, n, func(i item) error {
			read += 32 + len(i.data)
			err := Visitor{func(Inode) {}, func(inode, dir uint64) {}, func(Extent) {}}.visit(i)
			if err != nil && !errors.Is(err, unix.EUCLEAN) {
				t.Error(err)
			}
			parseRoot(i.data)
			if r, ok := parseNested(i); ok && len(r.Name) > len(i.data) {
				t.Errorf("name of %d bytes in %d", len(r.Name), len(i.data))
			}
			if e, ok := parseExtent(i.data); ok && e.Bytes < 0 {
				t.Errorf("extent of %d bytes", e.Bytes)
			}
			return nil
		})
		if read > len(buf) || err == nil && read < int(n)*32 {
			t.Errorf("read %d of %d bytes for %d items: %v", read, len(buf), n, err)
		}
	})
}
