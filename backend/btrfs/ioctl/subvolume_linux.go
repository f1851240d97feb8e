package ioctl

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// RootDir is the inode number of a subvolume's root directory (BTRFS_FIRST_FREE_OBJECTID).
const RootDir = 256

const (
	subvolReadOnly = 1 << 1 // BTRFS_SUBVOL_RDONLY
	nameMax        = 255    // BTRFS_VOL_NAME_MAX
	lookupPathMax  = 4080   // BTRFS_INO_LOOKUP_PATH_MAX
)

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

// CreateSubvolume makes an empty subvolume called name in the directory dir.
func CreateSubvolume(dir int, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	var args volArgs
	copy(args.name[:], name)
	return naming("create subvolume", name, ioctl(dir, dirIn, nrSubvolCreate, &args))
}

// CreateSnapshot makes a writable snapshot of source called name in dir. EXDEV if source lies on another
// file system.
func CreateSnapshot(dir int, name string, source int) error {
	if err := checkName(name); err != nil {
		return err
	}
	args := volArgsV2{fd: int64(source)}
	copy(args.name[:], name)
	return naming("create snapshot", name, ioctl(dir, dirIn, nrSnapCreateV2, &args))
}

// DestroySubvolume deletes the subvolume called name in dir with all it holds but for other subvolumes,
// of which it must have none (ENOTEMPTY). The space is freed in the background.
func DestroySubvolume(dir int, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	var args volArgs
	copy(args.name[:], name)
	return naming("delete subvolume", name, ioctl(dir, dirIn, nrSnapDestroy, &args))
}

// ReadOnly tells whether a subvolume has the read-only property. fd is its root directory.
func ReadOnly(fd int) (bool, error) {
	var flags uint64
	if err := ioctl(fd, dirOut, nrSubvolGet, &flags); err != nil {
		return false, fmt.Errorf("read subvolume's flags: %w", err)
	}
	return flags&subvolReadOnly != 0, nil
}

// SetReadOnly sets or clears the read-only property.
func SetReadOnly(fd int, on bool) error {
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

// UUID identifies a subvolume for ever; all zero for none.
type UUID [16]byte

// Subvolume is struct btrfs_ioctl_get_subvol_info_args.
type Subvolume struct {
	ID           uint64
	name         [nameMax + 1]byte
	parentID     uint64
	dirID        uint64
	generation   uint64
	flags        uint64
	UUID         UUID
	ParentUUID   UUID // of the subvolume that it is a snapshot of
	receivedUUID UUID
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

// SubvolumeOf describes the subvolume that the open file fd lies in.
func SubvolumeOf(fd int) (Subvolume, error) {
	var info Subvolume
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

// PathOf returns where a directory lies below its subvolume's root, without slashes at the ends.
func PathOf(fd int, subvolume, inode uint64) (string, error) {
	if inode == RootDir {
		return "", nil
	}
	args := lookup{tree: subvolume, inode: inode}
	if err := ioctl(fd, dirBoth, nrInoLookup, &args); err != nil {
		return "", fmt.Errorf("find inode %d of subvolume %d: %w", inode, subvolume, err)
	}
	path, _, _ := bytes.Cut(args.path[:], []byte{0})
	return strings.Trim(string(path), "/"), nil
}

// Sync writes all data of the file system and commits, so that tree searches see all that was done so far: a
// write(2) reaches its inode's item only when its data gets a place on disk, even if the subvolume has become
// read-only meanwhile. Where there is nothing to write it takes a millisecond or two.
func Sync(fd int) error {
	number := request(dirNone, nrSync, 0)
	if err := ioctlSized(fd, number, nil); err != nil {
		return fmt.Errorf("sync file system: %w", err)
	}
	return nil
}
