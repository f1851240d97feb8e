package dirfd

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func (d Dir) openFD(name string, flags int) (int, error) {
	how := unix.OpenHow{
		Flags:   uint64(unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_CLOEXEC | flags),
		Resolve: unix.RESOLVE_NO_XDEV,
	}
	fd, err := unix.Openat2(d.FD, name, &how)
	for errors.Is(err, unix.EINTR) {
		fd, err = unix.Openat2(d.FD, name, &how)
	}
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) { // EPERM: old seccomp profiles
		fd, err = d.openComparing(name, flags)
	}
	switch {
	case errors.Is(err, unix.EXDEV):
		return -1, MountPointError(d.Join(name))
	case errors.Is(err, unix.ELOOP):
		err = unix.ENOTDIR // with O_NOFOLLOW: it is a symbolic link
	}
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: d.Join(name), Err: err}
	}
	return fd, nil
}

// MountPointError says that something is mounted on a path: ErrFailedPrecondition.
func MountPointError(path string) error {
	return fmt.Errorf("%s is a mount point: %w", path, errdefs.ErrFailedPrecondition)
}

// IsMountPoint tells that an error is that of a name on which something is mounted.
func IsMountPoint(err error) bool { return errdefs.IsFailedPrecondition(err) }

// openComparing does without openat2(2). It returns EXDEV for a mount point.
func (d Dir) openComparing(name string, flags int) (int, error) {
	fd, err := openAt(d.FD, name, flags)
	if err != nil {
		return -1, err
	}
	outer, err := mountID(d.FD)
	if err == nil {
		var inner string
		inner, err = mountID(fd)
		if err == nil && inner != outer {
			err = unix.EXDEV
		}
	}
	if err != nil {
		_ = unix.Close(fd) // only read
		return -1, err
	}
	return fd, nil
}

// mountID returns which mount an open file was opened through.
func mountID(fd int) (string, error) {
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

func openAt(at int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|flags, 0)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}
