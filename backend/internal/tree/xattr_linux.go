package tree

import (
	"errors"
	"unsafe"

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
		return unix.Llistxattr(d.Proc(name), buf)
	}
	return 0, errno
}

// Xattr is lgetxattr(2) for name in d.
func (d Dir) Xattr(name, attribute string, buf []byte) (int, error) {
	return unix.Lgetxattr(d.Proc(name), attribute, buf)
}
