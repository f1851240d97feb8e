package backendtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sort"
	"syscall"
	"time"

	"strata/backend/internal/loopfs"

	"golang.org/x/sys/unix"
)

// zfsMagic is ZFS_SUPER_MAGIC (include/sys/fs/zfs.h).
const zfsMagic = 0x2fc12fc1

// inode is what lstat tells of a file beyond what package os shows.
type inode struct {
	dev, ino uint64
	links    uint64
	uid, gid uint32
	rdev     uint64
	blocks   int64 // of 512 bytes
}

func inodeOf(fi os.FileInfo) (inode, error) {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return inode{}, fmt.Errorf("stat of %q has no system part", fi.Name())
	}
	return inode{st.Dev, st.Ino, st.Nlink, st.Uid, st.Gid, st.Rdev, st.Blocks}, nil
}

func setTime(path string, t time.Time) error {
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return err
	}
	err = unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return fmt.Errorf("set time of %q: %w", path, err)
	}
	return nil
}

// setFlags sets inode flags (linux/fs.h, FS_*_FL) beside those that a file has.
func setFlags(path string, flags uint32) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	old, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(old|flags))
	}
	if err != nil {
		return fmt.Errorf("set flags of %q: %w", path, err)
	}
	return nil
}

func setXattr(path, name, value string) error {
	if err := unix.Lsetxattr(path, name, []byte(value), 0); err != nil {
		return fmt.Errorf("set %s of %q: %w", name, path, err)
	}
	return nil
}

func removeXattr(path, name string) error {
	if err := unix.Lremovexattr(path, name); err != nil {
		return fmt.Errorf("remove %s of %q: %w", name, path, err)
	}
	return nil
}

// xattrs reads all extended attributes of path itself.
func xattrs(path string) (map[string]string, error) {
	names := make([]byte, 64<<10) // XATTR_LIST_MAX, include/uapi/linux/limits.h
	n, err := unix.Llistxattr(path, names)
	if errors.Is(err, unix.ENOTSUP) {
		n, err = 0, nil // a file system without attributes
	}
	if err != nil {
		return nil, fmt.Errorf("list attributes of %q: %w", path, err)
	}
	var found map[string]string // nil without attributes: trees are compared by value
	if n == 0 {
		return found, nil
	}
	found = map[string]string{}
	for _, name := range bytes.Split(bytes.TrimSuffix(names[:n], []byte{0}), []byte{0}) {
		value := make([]byte, 64<<10) // XATTR_SIZE_MAX, the same file
		n, err := unix.Lgetxattr(path, string(name), value)
		if err != nil {
			return nil, fmt.Errorf("read %s of %q: %w", name, path, err)
		}
		found[string(name)] = string(value[:n])
	}
	return found, nil
}

func makeNode(path string, kind byte, mode os.FileMode, major, minor uint32) error {
	format := map[byte]uint32{'p': unix.S_IFIFO, 's': unix.S_IFSOCK, 'c': unix.S_IFCHR, 'b': unix.S_IFBLK}[kind]
	if err := unix.Mknod(path, format|0o600, int(unix.Mkdev(major, minor))); err != nil {
		return fmt.Errorf("make node %q: %w", path, err)
	}
	return os.Chmod(path, mode)
}

// syncFS writes everything on the file system of path to its disk. ZFS is content with having
// written its log, until which nothing counts as used: it is told to do more.
func syncFS(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("sync file system of %q: %w", path, err)
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil || uint32(st.Type) != zfsMagic {
		return err
	}
	return loopfs.SyncPools()
}

// freeBytes returns how many bytes can still be written to the file system of path.
func freeBytes(path string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, fmt.Errorf("statfs of %q: %w", path, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// descriptors lists what this process has open, one line each, sorted. Descriptors that the Go
// runtime keeps for itself are left out.
func descriptors() ([]string, error) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	var found []string
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || target == "anon_inode:[eventpoll]" || target == "anon_inode:[eventfd]" {
			continue // gone since: it was the listing's own; or the runtime's poller
		}
		found = append(found, target)
	}
	sort.Strings(found)
	return found, nil
}

func writeMapped(path string, at int, content []byte) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || int(fi.Size()) < at+len(content) {
		return err
	}
	m, err := unix.Mmap(int(f.Fd()), 0, int(fi.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map %q: %w", path, err)
	}
	copy(m[at:], content)
	return unix.Munmap(m)
}

func punchHole(path string, at, length int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, length)
}
