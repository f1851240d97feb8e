package dirfd

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// MaxXattrs is the size of the largest list of names and of the largest value that Linux has, bytes: XATTR_LIST_MAX and
// XATTR_SIZE_MAX in include/uapi/linux/limits.h.
const MaxXattrs = 64 << 10

// mostXattrs is the size of the first buffer, bytes: most files have no attributes, others few.
const mostXattrs = 256

// Xattr is an extended attribute of a file.
type Xattr struct {
	Name  string
	Value []byte
}

// Equal compares names and values.
func (x Xattr) Equal(y Xattr) bool { return x.Name == y.Name && bytes.Equal(x.Value, y.Value) }

// Xattrs reads the extended attributes whose names want picks, all if it is nil, sorted by name. Those that are removed
// meanwhile are not among them. There are none on a file system without any. A file that has more than Linux lists is
// an ErrFailedPrecondition.
func (f File) Xattrs(want func(name string) bool) ([]Xattr, error) {
	names, err := f.ListXattrs()
	if names == "" || err != nil {
		return nil, err
	}
	var list []Xattr
	for name := range strings.SplitSeq(strings.TrimSuffix(names, "\x00"), "\x00") {
		if name == "" || want != nil && !want(name) {
			continue
		}
		value, ok, err := f.Xattr(name)
		if err != nil {
			return nil, err
		}
		if ok {
			list = append(list, Xattr{name, value})
		}
	}
	slices.SortFunc(list, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// ListXattrs returns the names of all extended attributes, each with a zero byte behind it.
func (f File) ListXattrs() (string, error) {
	var small [mostXattrs]byte
	buf := small[:]
	n, err := f.list(buf)
	if errors.Is(err, unix.ERANGE) {
		buf = make([]byte, MaxXattrs)
		n, err = f.list(buf)
	}
	if errors.Is(err, unix.EOPNOTSUPP) {
		return "", nil
	}
	if err != nil {
		return "", f.fail("list extended attributes of", listError(err))
	}
	return string(buf[:n]), nil
}

// listError explains an error of listxattr(2).
func listError(err error) error {
	if errors.Is(err, unix.E2BIG) {
		return fmt.Errorf("it has more extended attributes than Linux lists, whose names take 64 KiB together; remove some: %w: %w",
			errdefs.ErrFailedPrecondition, err)
	}
	return err
}

func (f File) list(buf []byte) (int, error) {
	if f.fd >= 0 {
		return unix.Flistxattr(f.fd, buf)
	}
	n, err := listXattrAt(f.dir.FD, f.name, buf)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) { // before Linux 6.13, or a seccomp profile of then
		return unix.Llistxattr(f.dir.Proc(f.name), buf)
	}
	return n, err
}

// listXattrAt is listxattrat(2).
func listXattrAt(dir int, name string, buf []byte) (int, error) {
	path, err := unix.BytePtrFromString(name)
	if err != nil {
		return 0, err
	}
	n, _, errno := unix.Syscall6(unix.SYS_LISTXATTRAT, uintptr(dir), uintptr(unsafe.Pointer(path)),
		unix.AT_SYMLINK_NOFOLLOW, uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)), 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// Xattr reads an extended attribute. ok is false if the file has none of this name.
func (f File) Xattr(name string) (value []byte, ok bool, err error) {
	var small [mostXattrs]byte
	buf := small[:]
	n, err := f.get(name, buf)
	if errors.Is(err, unix.ERANGE) {
		buf = make([]byte, MaxXattrs)
		n, err = f.get(name, buf)
	}
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, f.fail("read extended attribute "+name+" of", err)
	}
	return slices.Clone(buf[:n]), true, nil
}

func (f File) get(name string, buf []byte) (int, error) {
	if f.fd >= 0 {
		return unix.Fgetxattr(f.fd, name, buf)
	}
	return unix.Lgetxattr(f.dir.Proc(f.name), name, buf)
}

// SetXattr gives the file an extended attribute, or its value.
func (f File) SetXattr(name string, value []byte) (err error) {
	if f.fd >= 0 {
		err = unix.Fsetxattr(f.fd, name, value, 0)
	} else {
		err = unix.Lsetxattr(f.dir.Proc(f.name), name, value, 0)
	}
	if err != nil {
		return f.fail("set extended attribute "+name+" of", err)
	}
	return nil
}

// RemoveXattr takes an extended attribute from the file, if it has it.
func (f File) RemoveXattr(name string) (err error) {
	if f.fd >= 0 {
		err = unix.Fremovexattr(f.fd, name)
	} else {
		err = unix.Lremovexattr(f.dir.Proc(f.name), name)
	}
	if err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP) {
		return f.fail("remove extended attribute "+name+" of", err)
	}
	return nil
}
