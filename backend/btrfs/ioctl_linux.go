package btrfs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// The numbers, structures and flags below are those of include/uapi/linux/btrfs.h.
const (
	ioctlMagic = 0x94

	nrSync          = 8
	nrSubvolCreate  = 14
	nrSnapDestroy   = 15
	nrTreeSearchV2  = 17
	nrInoLookup     = 18
	nrSnapCreateV2  = 23
	nrSubvolGet     = 25
	nrSubvolSet     = 26
	nrQgroupCreate  = 42
	nrQgroupLimit   = 43
	nrGetSubvolInfo = 60
)

const (
	subvolReadOnly = 1 << 1 // BTRFS_SUBVOL_RDONLY

	nameMax       = 255  // BTRFS_VOL_NAME_MAX
	lookupPathMax = 4080 // BTRFS_INO_LOOKUP_PATH_MAX

	rootDirID = 256 // BTRFS_FIRST_FREE_OBJECTID: inode number of a subvolume's root directory
)

// direction of an ioctl's data, as the program sees it.
type direction uint8

const (
	dirNone direction = iota
	dirIn             // the kernel reads: _IOW
	dirOut            // the kernel writes: _IOR
	dirBoth
)

// request encodes the number of an ioctl (include/uapi/asm-generic/ioctl.h; powerpc and mips have an
// encoding of their own).
func request(d direction, nr, size uintptr) uintptr {
	code, shift := [...]uintptr{dirNone: 0, dirIn: 1, dirOut: 2, dirBoth: 3}, 30
	if strings.HasPrefix(runtime.GOARCH, "ppc") || strings.HasPrefix(runtime.GOARCH, "mips") {
		code, shift = [...]uintptr{dirNone: 1, dirIn: 4, dirOut: 2, dirBoth: 6}, 29
	}
	return code[d]<<shift | size<<16 | ioctlMagic<<8 | nr
}

// ioctl passes arg to the kernel.
func ioctl[T any](fd int, d direction, nr uintptr, arg *T) error {
	return ioctlSized(fd, request(d, nr, unsafe.Sizeof(*arg)), unsafe.Pointer(arg))
}

// ioctlSized is for structures with a variable end, of which the number encodes the fixed part only.
func ioctlSized(fd int, number uintptr, arg unsafe.Pointer) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), number, uintptr(arg))
		if errno == 0 {
			return nil
		}
		if errno != unix.EINTR {
			return errno
		}
	}
}

// volArgs is struct btrfs_ioctl_vol_args.
type volArgs struct {
	fd   int64
	name [4088]byte
}

// volArgsV2 is struct btrfs_ioctl_vol_args_v2.
type volArgsV2 struct {
	fd             int64
	transid, flags uint64
	unused         [4]uint64
	name           [4040]byte
}

func checkName(name string) error {
	if name == "" || len(name) > nameMax || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("subvolume name %q: %w", name, errdefs.ErrInvalidArgument)
	}
	return nil
}

// createSubvolume makes an empty subvolume called name in the directory dir.
func createSubvolume(dir int, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	var args volArgs
	copy(args.name[:], name)
	return wrap("create subvolume", name, ioctl(dir, dirIn, nrSubvolCreate, &args))
}

// createSnapshot makes a writable snapshot of source called name in dir. EXDEV if source lies on another
// file system.
func createSnapshot(dir int, name string, source int) error {
	if err := checkName(name); err != nil {
		return err
	}
	args := volArgsV2{fd: int64(source)}
	copy(args.name[:], name)
	return wrap("create snapshot", name, ioctl(dir, dirIn, nrSnapCreateV2, &args))
}

// destroySubvolume deletes the subvolume called name in dir with all it holds but for other subvolumes,
// of which it must have none (ENOTEMPTY). The space is freed in the background.
func destroySubvolume(dir int, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	var args volArgs
	copy(args.name[:], name)
	return wrap("delete subvolume", name, ioctl(dir, dirIn, nrSnapDestroy, &args))
}

// readOnly tells whether a subvolume has the read-only property. fd is its root directory.
func readOnly(fd int) (bool, error) {
	var flags uint64
	if err := ioctl(fd, dirOut, nrSubvolGet, &flags); err != nil {
		return false, fmt.Errorf("read subvolume's flags: %w", err)
	}
	return flags&subvolReadOnly != 0, nil
}

// setReadOnly sets or clears the read-only property.
func setReadOnly(fd int, on bool) error {
	var flags uint64
	if err := ioctl(fd, dirOut, nrSubvolGet, &flags); err != nil {
		return fmt.Errorf("read subvolume's flags: %w", err)
	}
	wanted := flags &^ subvolReadOnly
	if on {
		wanted |= subvolReadOnly
	}
	if wanted == flags {
		return nil
	}
	if err := ioctl(fd, dirIn, nrSubvolSet, &wanted); err != nil {
		return fmt.Errorf("set subvolume's flags: %w", err)
	}
	return nil
}

// uuid identifies a subvolume for ever; all zero for none.
type uuid [16]byte

// subvolumeInfo is struct btrfs_ioctl_get_subvol_info_args.
type subvolumeInfo struct {
	ID           uint64
	name         [nameMax + 1]byte
	parentID     uint64
	dirID        uint64
	generation   uint64
	flags        uint64
	UUID         uuid
	ParentUUID   uuid // of the subvolume that it is a snapshot of
	receivedUUID uuid
	changed      uint64
	Created      uint64 // transaction that made it; all that happened to it later has a higher number
	sent         uint64
	received     uint64
	times        [4]struct {
		seconds     uint64
		nanoseconds uint32
		_           uint32
	}
	reserved [8]uint64
}

// subvolumeOf describes the subvolume that the open file fd lies in.
func subvolumeOf(fd int) (subvolumeInfo, error) {
	var info subvolumeInfo
	if err := ioctl(fd, dirOut, nrGetSubvolInfo, &info); err != nil {
		return info, fmt.Errorf("describe subvolume: %w", err)
	}
	return info, nil
}

// lookup is struct btrfs_ioctl_ino_lookup_args.
type lookup struct {
	tree, inode uint64
	path        [lookupPathMax]byte
}

// pathOf returns where a directory lies below its subvolume's root, without slashes at the ends.
func pathOf(fd int, subvolume, inode uint64) (string, error) {
	if inode == rootDirID {
		return "", nil
	}
	args := lookup{tree: subvolume, inode: inode}
	if err := ioctl(fd, dirBoth, nrInoLookup, &args); err != nil {
		return "", fmt.Errorf("find inode %d of subvolume %d: %w", inode, subvolume, err)
	}
	path, _, _ := bytes.Cut(args.path[:], []byte{0})
	return strings.Trim(string(path), "/"), nil
}

// flush writes all data of the file system and commits, so that tree searches see all that was done so far: a
// write(2) reaches its inode's item only when its data gets a place on disk, even if the subvolume has become
// read-only meanwhile. Where there is nothing to write it takes a millisecond or two.
func flush(fd int) error {
	number := request(dirNone, nrSync, 0)
	if err := ioctlSized(fd, number, nil); err != nil {
		return fmt.Errorf("sync file system: %w", err)
	}
	return nil
}

// wrap names what an ioctl was to be done to; nil stays nil.
func wrap(verb, object string, err error) error {
	if err == nil {
		return nil
	}
	class := errorClass(err)
	if class == nil {
		return fmt.Errorf("%s %s: %w", verb, object, err)
	}
	return fmt.Errorf("%s %s: %w (%w)", verb, object, err, class)
}

func errorClass(err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return errdefs.ErrNotFound
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return errdefs.ErrResourceExhausted
	case errors.Is(err, unix.EPERM):
		return errdefs.ErrPermissionDenied
	}
	return nil
}
