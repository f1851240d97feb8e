package ioctl

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
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
