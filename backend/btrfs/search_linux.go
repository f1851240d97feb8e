package btrfs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Numbers of trees and types of items: include/uapi/linux/btrfs_tree.h.
const (
	rootTree  = 1
	quotaTree = 8
	uuidTree  = 9

	typeInode        = 1
	typeInodeRef     = 12
	typeInodeExtref  = 13
	typeExtentData   = 108
	typeRoot         = 132
	typeRootRef      = 156
	typeQgroupStatus = 240
	typeUUID         = 251 // BTRFS_UUID_KEY_SUBVOL
)

// key is the place of an item in a tree; items are sorted by it, the first field being the most significant.
type key struct {
	object uint64
	kind   uint32
	offset uint64
}

// next returns the key after k. ok is false if there is none.
func (k key) next() (_ key, ok bool) {
	if k.offset++; k.offset != 0 {
		return k, true
	}
	if k.kind < math.MaxUint8 { // a type is one byte on disk
		k.kind++
		return k, true
	}
	k.kind = 0
	k.object++
	return k, k.object != 0
}

// lastKey is the last key that a file's items can have: the inode number is BTRFS_LAST_FREE_OBJECTID.
func lastKey() key { return key{math.MaxUint64 - 255, math.MaxUint8, math.MaxUint64} }

// item is one item of a tree. data is valid until the next one is read.
type item struct {
	key
	data []byte
}

// span says what to search for.
type span struct {
	tree      uint64 // 0 is the subvolume that the descriptor lies in
	from, to  key
	youngerBy uint64 // only items in blocks written by this transaction or later
	buffer    int    // bytes, searchBuffer if 0
}

const (
	// searchBuffer holds the items of about 16 tree blocks of the usual 16 KiB, so that a long search
	// needs few calls. No item is larger than a block, and no block than 64 KiB.
	searchBuffer = 256 << 10
	// lookupBuffer is for searches that find a few small items.
	lookupBuffer = 4 << 10
)

// searchKey is struct btrfs_ioctl_search_key.
type searchKey struct {
	tree                   uint64
	minObject, maxObject   uint64
	minOffset, maxOffset   uint64
	minTransid, maxTransid uint64
	minType, maxType       uint32
	items                  uint32
	_                      uint32
	_                      [4]uint64
}

// searchHeader is struct btrfs_ioctl_search_args_v2 up to its buffer, which follows directly.
type searchHeader struct {
	key  searchKey
	size uint64 // of the buffer
}

// errStop ends a search early, without being an error of it.
var errStop = errors.New("stop")

// search calls f for each item in s, in the order of keys; the items' types are for f to look at. It
// returns the first error of f. unix.ENOENT if there is no such tree.
func search(ctx context.Context, fd int, s span, f func(item) error) error {
	if s.buffer == 0 {
		s.buffer = searchBuffer
	}
	const header = int(unsafe.Sizeof(searchHeader{}))
	memory := make([]uint64, (header+s.buffer)/8) // aligned as the header needs it
	args := (*searchHeader)(unsafe.Pointer(&memory[0]))
	answer := unsafe.Slice((*byte)(unsafe.Pointer(&memory[0])), header+s.buffer)[header:]
	for from, more := s.from, true; more; {
		if err := ctx.Err(); err != nil {
			return err
		}
		*args = searchHeader{size: uint64(s.buffer), key: searchKey{
			tree:      s.tree,
			minObject: from.object, minType: from.kind, minOffset: from.offset,
			maxObject: s.to.object, maxType: s.to.kind, maxOffset: s.to.offset,
			minTransid: s.youngerBy, maxTransid: math.MaxUint64, items: math.MaxUint32,
		}}
		err := ioctlSized(fd, request(dirBoth, nrTreeSearchV2, uintptr(header)), unsafe.Pointer(args))
		if errors.Is(err, unix.EOVERFLOW) && s.buffer < searchBuffer { // an item larger than the buffer
			s.buffer, s.from = searchBuffer, from
			return search(ctx, fd, s, f)
		}
		if err != nil {
			return fmt.Errorf("search tree %d: %w", s.tree, err)
		}
		found := args.key.items
		if found == 0 {
			return nil
		}
		last, err := eachItem(answer, found, f)
		if err != nil {
			if errors.Is(err, errStop) {
				return nil
			}
			return err
		}
		from, more = last.next()
	}
	return nil
}

// eachItem calls f for the n items that a search wrote into buf, and returns the last key.
func eachItem(buf []byte, n uint32, f func(item) error) (last key, err error) {
	const header = 32 // struct btrfs_ioctl_search_header: transid, objectid, offset, type, len
	for range n {
		if len(buf) < header {
			return last, fmt.Errorf("search answer ends in an item's header: %w", unix.EBADMSG)
		}
		order := binary.NativeEndian // the header is the kernel's, the data is the disk's
		i := item{key: key{object: order.Uint64(buf[8:]), offset: order.Uint64(buf[16:]), kind: order.Uint32(buf[24:])}}
		length := uint64(order.Uint32(buf[28:]))
		if buf = buf[header:]; uint64(len(buf)) < length {
			return last, fmt.Errorf("search answer ends in item %v: %w", i.key, unix.EBADMSG)
		}
		i.data, buf = buf[:length], buf[length:]
		last = i.key
		if err := f(i); err != nil {
			return last, err
		}
	}
	return last, nil
}

// inodeItem is what is needed of struct btrfs_inode_item.
type inodeItem struct {
	generation uint64 // transaction that made the inode
	transid    uint64 // transaction that last changed it
	links      uint32
}

const inodeItemSize = 160

func parseInode(data []byte) (inodeItem, bool) {
	if len(data) < inodeItemSize {
		return inodeItem{}, false
	}
	d := binary.LittleEndian
	return inodeItem{generation: d.Uint64(data), transid: d.Uint64(data[8:]), links: d.Uint32(data[40:])}, true
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

// extent is what is needed of struct btrfs_file_extent_item.
type extent struct {
	generation uint64 // transaction that wrote the data
	address    uint64 // 0 for a hole and for inline data
	bytes      int64  // on disk
}

const (
	inlineHeader = 21 // bytes before inline data
	extentSize   = 53
	extentInline = 0 // BTRFS_FILE_EXTENT_INLINE
)

func parseExtent(data []byte) (extent, bool) {
	if len(data) < inlineHeader {
		return extent{}, false
	}
	d := binary.LittleEndian
	e := extent{generation: d.Uint64(data)}
	if data[20] == extentInline {
		e.bytes = int64(len(data) - inlineHeader)
		return e, true
	}
	if len(data) < extentSize {
		return extent{}, false
	}
	e.address, e.bytes = d.Uint64(data[21:]), int64(d.Uint64(data[29:]))
	return e, e.bytes >= 0
}

// rootRef is struct btrfs_root_ref: where a subvolume lies in another one.
type rootRef struct {
	id   uint64 // of the subvolume
	dir  uint64 // inode of the directory in the other one
	name string
}

func parseRootRef(i item) (rootRef, bool) {
	if len(i.data) < 18 {
		return rootRef{}, false
	}
	d := binary.LittleEndian
	length := int(d.Uint16(i.data[16:]))
	if len(i.data) < 18+length {
		return rootRef{}, false
	}
	return rootRef{id: i.offset, dir: d.Uint64(i.data), name: string(i.data[18 : 18+length])}, true
}

// parseRoot reads struct btrfs_root_item. ok is false for one that a kernel before 3.6 wrote, without UUIDs.
func parseRoot(data []byte) (info subvolumeInfo, ok bool) {
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

// nested lists the subvolumes directly inside subvolume id, by ID. fd is any file on the file system.
func nested(ctx context.Context, fd int, id uint64) ([]rootRef, error) {
	var list []rootRef
	s := span{
		tree: rootTree, buffer: lookupBuffer,
		from: key{id, typeRootRef, 0}, to: key{id, typeRootRef, math.MaxUint64},
	}
	err := search(ctx, fd, s, func(i item) error {
		if i.kind != typeRootRef {
			return nil
		}
		ref, ok := parseRootRef(i)
		if !ok {
			return damaged(i)
		}
		list = append(list, ref)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list nested subvolumes: %w", err)
	}
	return list, nil
}

func damaged(i item) error {
	return fmt.Errorf("item %d of type %d at %d is too short: %w", i.object, i.kind, i.offset, unix.EUCLEAN)
}

// byUUID finds a subvolume. ok is false if there is none.
func byUUID(ctx context.Context, fd int, u uuid) (info subvolumeInfo, ok bool, err error) {
	var id uint64
	at := key{binary.LittleEndian.Uint64(u[:8]), typeUUID, binary.LittleEndian.Uint64(u[8:])}
	err = search(ctx, fd, span{tree: uuidTree, buffer: lookupBuffer, from: at, to: at}, func(i item) error {
		if len(i.data) < 8 {
			return damaged(i)
		}
		id = binary.LittleEndian.Uint64(i.data)
		return errStop
	})
	if err != nil || id == 0 {
		if errors.Is(err, unix.ENOENT) { // no such tree on file systems of before 3.12
			err = nil
		}
		return info, false, err
	}
	s := span{tree: rootTree, buffer: lookupBuffer, from: key{id, typeRoot, 0}, to: key{id, typeRoot, math.MaxUint64}}
	err = search(ctx, fd, s, func(i item) error {
		info, ok = parseRoot(i.data)
		return errStop
	})
	info.ID = id
	return info, ok && info.UUID == u, err
}
