package dirfd

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// ListXattrs is llistxattr(2) for name in d.
func (d Dir) ListXattrs(name string, buf []byte) (int, error) {
	path, err := unix.BytePtrFromString(name)
	if err != nil {
		return 0, err
	}
	n, _, errno := unix.Syscall6(unix.SYS_LISTXATTRAT, uintptr(d.FD), uintptr(unsafe.Pointer(path)),
		unix.AT_SYMLINK_NOFOLLOW, uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)), 0)
	switch {
	case errno == 0:
		return int(n), nil
	case errors.Is(errno, unix.ENOSYS), errors.Is(errno, unix.EPERM): // before Linux 6.13, or a seccomp profile of then
		n, err := unix.Llistxattr(d.Proc(name), buf)
		return n, ListError(err)
	}
	return 0, ListError(errno)
}

// ListError explains an error of listxattr(2).
func ListError(err error) error {
	if errors.Is(err, unix.E2BIG) {
		return fmt.Errorf("it has more extended attributes than Linux lists, whose names take 64 KiB together; remove some: %w: %w", errdefs.ErrFailedPrecondition, err)
	}
	return err
}

// Xattr is lgetxattr(2) for name in d.
func (d Dir) Xattr(name, attribute string, buf []byte) (int, error) {
	return unix.Lgetxattr(d.Proc(name), attribute, buf)
}
