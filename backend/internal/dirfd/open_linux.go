package dirfd

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	// readFlags are those of every open here.
	readFlags = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	// beneath keeps a path below a directory, on its mount, and away from symbolic links.
	beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV
)

// MaxPath is how long a path may be that is handed to the kernel, behind the prefix of Proc, too, bytes. PATH_MAX is 4096.
const MaxPath = 4000

// OpenBeneath opens what a relative path leads to below d for reading, with further flags of open(2). The path may
// have any length. With O_PATH a symbolic link can be opened, as the last element. Any other link and
// what is no directory on the way is a *os.PathError with unix.ENOTDIR, what is missing one with unix.ENOENT. A mount
// point is an ErrFailedPrecondition for which IsMountPoint is true, a path with ".." unix.EINVAL.
func (d Dir) OpenBeneath(path string, flags int) (int, error) {
	if leadsOut(path) {
		return -1, &os.PathError{Op: "open", Path: d.Join(path), Err: unix.EINVAL}
	}
	at, rest := d, path
	for len(rest) > MaxPath {
		cut := strings.LastIndexByte(rest[:MaxPath], '/')
		if cut < 0 { // no name is as long as that
			at.closeUnless(d)
			return -1, &os.PathError{Op: "open", Path: d.Join(path), Err: unix.ENAMETOOLONG}
		}
		fd, err := at.open(rest[:cut], unix.O_PATH|unix.O_DIRECTORY, beneath)
		at.closeUnless(d)
		if err != nil {
			return -1, err
		}
		at.FD, rest = fd, rest[cut+1:]
	}
	defer at.closeUnless(d)
	return at.open(rest, flags, beneath)
}

// Lstat describes what a relative path leads to below d, with the errors of OpenBeneath. A symbolic link at its end is
// described itself.
func (d Dir) Lstat(path string) (st unix.Stat_t, err error) {
	fd, err := d.OpenBeneath(path, unix.O_PATH)
	if err != nil {
		return st, err
	}
	defer func() { _ = unix.Close(fd) }() // nothing was read
	return d.Opened(path, fd).Stat()
}

// leadsOut reports whether a path begins at the root or has a "..".
func leadsOut(path string) bool {
	return strings.HasPrefix(path, "/") || path == ".." || strings.HasPrefix(path, "../") ||
		strings.HasSuffix(path, "/..") || strings.Contains(path, "/../")
}

func (d Dir) closeUnless(same Dir) {
	if d.FD != same.FD {
		d.Close()
	}
}

// openFD opens what is called name in d, which may be "..".
func (d Dir) openFD(name string, flags int) (int, error) {
	return d.open(name, flags, unix.RESOLVE_NO_XDEV)
}

func (d Dir) open(path string, flags int, resolve uint64) (int, error) {
	how := unix.OpenHow{Flags: uint64(readFlags | flags), Resolve: resolve}
	fd, err := retryFD(func() (int, error) { return unix.Openat2(d.FD, path, &how) })
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) { // EPERM: old seccomp profiles
		fd, err = openComparing(d.FD, path, flags)
	}
	switch {
	case errors.Is(err, unix.EXDEV):
		return -1, MountPointError(d.Join(path))
	case errors.Is(err, unix.ELOOP):
		err = unix.ENOTDIR // with O_NOFOLLOW: it is a symbolic link
	}
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: d.Join(path), Err: err}
	}
	return fd, nil
}

// openComparing does without openat2(2), name by name. It returns EXDEV for a mount point. To compare the last mount
// with the first one is enough: links and ".." apart, no way leads back out of a mount.
func openComparing(root int, path string, flags int) (int, error) {
	fd, err := openNames(root, path, flags)
	if err != nil {
		return -1, err
	}
	if err := sameMount(root, fd); err != nil {
		_ = unix.Close(fd) // only read
		return -1, err
	}
	return fd, nil
}

func sameMount(a, b int) error {
	outer, err := MountID(a)
	if err != nil {
		return err
	}
	inner, err := MountID(b)
	if err == nil && inner != outer {
		err = unix.EXDEV
	}
	return err
}

func openNames(root int, path string, flags int) (int, error) {
	at := root
	for {
		name, rest, more := strings.Cut(path, "/")
		if !more {
			fd, err := openAt(at, name, flags)
			Dir{FD: at}.closeUnless(Dir{FD: root})
			return fd, err
		}
		next, err := openAt(at, name, unix.O_PATH|unix.O_DIRECTORY)
		Dir{FD: at}.closeUnless(Dir{FD: root})
		if err != nil {
			return -1, err
		}
		at, path = next, rest
	}
}

func openAt(at int, name string, flags int) (int, error) {
	return retryFD(func() (int, error) { return unix.Openat(at, name, readFlags|flags, 0) })
}

// MountID returns the number of the mount that an open file was opened through. It needs /proc.
func MountID(fd int) (string, error) {
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(info)) {
		if id, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			return strings.TrimSpace(id), nil
		}
	}
	return "", fmt.Errorf("mount ID in /proc/self/fdinfo: %w", errdefs.ErrNotImplemented)
}

// MountPointError says that something is mounted on a path: ErrFailedPrecondition.
func MountPointError(path string) error {
	return fmt.Errorf("%s is a mount point: %w", path, errdefs.ErrFailedPrecondition)
}

// IsMountPoint tells that an error of this package is that of a name on which something is mounted.
func IsMountPoint(err error) bool { return errdefs.IsFailedPrecondition(err) }
