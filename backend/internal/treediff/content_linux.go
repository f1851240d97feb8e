package treediff

import (
	"bytes"
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"strata/backend/internal/dirfd"
)

// piece is how much is compared at a time, bytes.
const piece = 64 << 10

// contentDiffers compares two files that had the same size. Large ones are not read where they share their blocks, as reflinks and
// snapshots do, nor in holes that both have.
func contentDiffers(u, l *File, oneDisk bool) (bool, error) {
	size := u.Stat.Size
	if size == 0 || u.inode() == l.inode() {
		return false, nil
	}
	a, err := u.Dir.OpenFile(u.Name)
	if err != nil {
		return false, dirfd.IgnoreVanished(err)
	}
	defer func() { _ = unix.Close(a) }() // only read
	b, err := l.Dir.OpenFile(l.Name)
	if err != nil {
		return false, dirfd.IgnoreVanished(err)
	}
	defer func() { _ = unix.Close(b) }() // only read
	if size > piece && (oneDisk || u.Stat.Dev == l.Stat.Dev) && sameBlocks(a, b) {
		return false, nil
	}
	x, y := make([]byte, min(piece, size)), make([]byte, min(piece, size))
	for offset := int64(0); offset < size; offset += piece {
		if size > piece {
			if offset = min(nextData(a, offset, size), nextData(b, offset, size)); offset == size {
				return false, nil
			}
		}
		n, err := read(u, a, x, offset)
		if err != nil {
			return false, err
		}
		m, err := read(l, b, y, offset)
		if err != nil {
			return false, err
		}
		if !bytes.Equal(x[:n], y[:m]) {
			return true, nil
		}
	}
	return false, nil
}

// read fills p and returns how much there was.
func read(f *File, fd int, p []byte, offset int64) (int, error) {
	n, err := dirfd.ReadAt(fd, p, offset)
	if err != nil {
		return n, &os.PathError{Op: "read", Path: f.Path(), Err: err}
	}
	return n, nil
}

// nextData returns where the next data begins at or after the offset, or the file's size. Where the file system does not tell
// everything is data.
func nextData(fd int, offset, size int64) int64 {
	start, err := unix.Seek(fd, offset, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return size
	case err != nil:
		return offset
	}
	return start
}

// extent is struct fiemap_extent, and extentMap struct fiemap with room for some (include/uapi/linux/fiemap.h).
type extent struct {
	logical, physical, length uint64
	_                         [2]uint64
	flags                     uint32
	_                         [3]uint32
}

type extentMap struct {
	start, length uint64
	flags         uint32
	mapped, count uint32
	_             uint32
	extents       [64]extent
}

const (
	fiemap          = 0xc020660b // FS_IOC_FIEMAP
	fiemapSync      = 1          // FIEMAP_FLAG_SYNC: what is not on the disk has no place there
	extentLast      = 0x1
	extentPlain     = extentLast | extentUnwritten | extentMerged | extentShared
	extentMerged    = 0x1000
	extentShared    = 0x2000
	extentUnwritten = 0x800
)

// sameBlocks tells that two files of one file system certainly consist of the same blocks: who writes to one of the files gets others.
// A file with blocks of which more than their place has to be known, such as compressed ones, is never certain.
func sameBlocks(a, b int) bool {
	for start := uint64(0); ; {
		x, ok := blocks(a, start)
		if !ok {
			return false
		}
		y, ok := blocks(b, start)
		if !ok || x.mapped != y.mapped {
			return false
		}
		for i := range x.mapped {
			e, f := x.extents[i], y.extents[i]
			const kept = extentLast | extentUnwritten
			if e.logical != f.logical || e.physical != f.physical || e.length != f.length || e.flags&kept != f.flags&kept {
				return false
			}
		}
		if x.mapped == 0 { // nothing but a hole follows, or the file system does not tell
			return false
		}
		last := x.extents[x.mapped-1]
		if last.flags&extentLast != 0 {
			return true
		}
		start = last.logical + last.length
	}
}

// blocks returns where the first extents from start on lie. ok is false if that is not known of each.
func blocks(fd int, start uint64) (m *extentMap, ok bool) {
	m = &extentMap{start: start, length: ^uint64(0) - start, flags: fiemapSync}
	m.count = uint32(len(m.extents))
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), fiemap, uintptr(unsafe.Pointer(m)))
	if errno != 0 || m.mapped > m.count {
		return nil, false
	}
	for _, e := range m.extents[:m.mapped] {
		if e.flags&^extentPlain != 0 || e.physical == 0 {
			return nil, false
		}
	}
	return m, true
}
