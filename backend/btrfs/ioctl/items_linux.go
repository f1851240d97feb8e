package ioctl

import (
	"encoding/binary"
	"fmt"
	"iter"

	"golang.org/x/sys/unix"
)

// Inode is a file's own item (struct btrfs_inode_item).
type Inode struct {
	Number  uint64
	Created uint64 // transaction that made the inode
	Changed uint64 // transaction that last changed it
	Links   uint32 // number of names; 0 for a file that is deleted and still open
}

const inodeItemSize = 160

func parseInode(i item) (Inode, bool) {
	if len(i.data) < inodeItemSize {
		return Inode{}, false
	}
	d := binary.LittleEndian
	return Inode{Number: i.object, Created: d.Uint64(i.data), Changed: d.Uint64(i.data[8:]), Links: d.Uint32(i.data[40:])}, true
}

// names yields, for each name that an item of typeInodeRef or typeInodeExtref holds, the inode number of the
// directory that the name is in. Damaged items end early.
func names(i item) iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		d := binary.LittleEndian
		fixed, parent := 10, i.offset // struct btrfs_inode_ref: index, name_len
		if i.kind == typeInodeExtref {
			fixed = 18 // struct btrfs_inode_extref: parent_objectid, index, name_len
		}
		for data := i.data; len(data) >= fixed; {
			if i.kind == typeInodeExtref {
				parent = d.Uint64(data)
			}
			length := fixed + int(d.Uint16(data[fixed-2:]))
			if length > len(data) || !yield(parent) {
				return
			}
			data = data[length:]
		}
	}
}

// Extent is a piece of a file's content (struct btrfs_file_extent_item).
type Extent struct {
	Written uint64 // transaction that wrote the data
	Address uint64 // 0 for a hole and for data that is kept in the item itself
	Bytes   int64  // on disk
}

const (
	inlineHeader = 21 // bytes before inline data
	extentSize   = 53
	extentInline = 0 // BTRFS_FILE_EXTENT_INLINE
)

func parseExtent(data []byte) (Extent, bool) {
	if len(data) < inlineHeader {
		return Extent{}, false
	}
	d := binary.LittleEndian
	e := Extent{Written: d.Uint64(data)}
	if data[20] == extentInline {
		e.Bytes = int64(len(data) - inlineHeader)
		return e, true
	}
	if len(data) < extentSize {
		return Extent{}, false
	}
	e.Address, e.Bytes = d.Uint64(data[21:]), int64(d.Uint64(data[29:]))
	return e, e.Bytes >= 0
}

// Nested says where a subvolume lies in another one (struct btrfs_root_ref).
type Nested struct {
	ID   uint64 // of the subvolume
	Dir  uint64 // inode of the directory in the other one
	Name string
}

func parseNested(i item) (Nested, bool) {
	if len(i.data) < 18 {
		return Nested{}, false
	}
	d := binary.LittleEndian
	length := int(d.Uint16(i.data[16:]))
	if len(i.data) < 18+length {
		return Nested{}, false
	}
	return Nested{ID: i.offset, Dir: d.Uint64(i.data), Name: string(i.data[18 : 18+length])}, true
}

// parseRoot reads struct btrfs_root_item. ok is false for one that a kernel before 3.6 wrote, without UUIDs.
func parseRoot(data []byte) (info Subvolume, ok bool) {
	const (
		generation, generationV2 = 160, 239
		uuids                    = 247 // uuid, parent_uuid, received_uuid, ctransid, otransid
		size                     = 439
	)
	d := binary.LittleEndian
	if len(data) < size || d.Uint64(data[generation:]) != d.Uint64(data[generationV2:]) {
		return info, false
	}
	copy(info.UUID[:], data[uuids:])
	copy(info.ParentUUID[:], data[uuids+16:])
	info.Created = d.Uint64(data[uuids+56:])
	return info, true
}

func damaged(i item) error {
	return fmt.Errorf("item %d of type %d at %d is too short: %w", i.object, i.kind, i.offset, unix.EUCLEAN)
}
