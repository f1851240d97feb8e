package openat

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"strata/backend"
	"strata/backend/internal/layertar/tarcodec"

	files "strata/backend/internal/tree"
)

// MaxXattrs is the largest list of names and the largest value that Linux has (XATTR_LIST_MAX,
// XATTR_SIZE_MAX).
const MaxXattrs = 64 << 10

// ReadXattrs returns the node's attributes that go into a tar, sorted by name. Marks of how layers are merged do not.
func ReadXattrs(n File, marks backend.Whiteouts) ([]tarcodec.Xattr, error) {
	names, err := n.ListXattrs()
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list attributes: %w", files.ListError(err))
	}
	var list []tarcodec.Xattr
	for name := range strings.SplitSeq(names, "\x00") {
		if name == "" || !tarcodec.PackedXattr(name, marks) {
			continue
		}
		value, err := n.getXattr(name)
		if errors.Is(err, unix.ENODATA) { // removed since
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read attribute %q: %w", name, err)
		}
		if name == "security.capability" {
			value = rootlessCapability(value)
		}
		list = append(list, tarcodec.Xattr{Name: name, Value: string(value)})
	}
	slices.SortFunc(list, func(a, b tarcodec.Xattr) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// File is a file that is reached by fd if that is not -1, else by name in dir without following symlinks.
type File struct {
	FD   int
	Dir  int
	Name string
}

// Stat looks at the file.
func (n File) Stat(st *unix.Stat_t) error {
	if n.FD >= 0 {
		return unix.Fstat(n.FD, st)
	}
	return unix.Fstatat(n.Dir, n.Name, st, unix.AT_SYMLINK_NOFOLLOW)
}

// magicPath names a file in an open directory for system calls that know paths only. The last
// component is the file itself, so the l variants of those calls do not follow it.
func magicPath(dir int, name string) string { return fmt.Sprintf("/proc/self/fd/%d/%s", dir, name) }

// SetXattr gives the file an attribute.
func (n File) SetXattr(name, value string) error {
	if n.FD >= 0 {
		return unix.Fsetxattr(n.FD, name, []byte(value), 0)
	}
	return unix.Lsetxattr(magicPath(n.Dir, n.Name), name, []byte(value), 0)
}

// RemoveXattr takes an attribute from the file.
func (n File) RemoveXattr(name string) error {
	if n.FD >= 0 {
		return unix.Fremovexattr(n.FD, name)
	}
	return unix.Lremovexattr(magicPath(n.Dir, n.Name), name)
}

// ListXattrs returns the names, each ended by a NUL. Most files have none, so the first try is with a
// small buffer.
func (n File) ListXattrs() (string, error) {
	var small [256]byte
	b := small[:]
	for {
		size, err := n.callXattr(func(fd int) (int, error) { return unix.Flistxattr(fd, b) },
			func(path string) (int, error) { return unix.Llistxattr(path, b) })
		if errors.Is(err, unix.ERANGE) && len(b) < MaxXattrs {
			b = make([]byte, MaxXattrs)
			continue
		}
		if err != nil {
			return "", err
		}
		return string(b[:size]), nil
	}
}

// getXattr returns the value of an attribute.
func (n File) getXattr(name string) ([]byte, error) {
	b := make([]byte, 256)
	for {
		size, err := n.callXattr(func(fd int) (int, error) { return unix.Fgetxattr(fd, name, b) },
			func(path string) (int, error) { return unix.Lgetxattr(path, name, b) })
		if errors.Is(err, unix.ERANGE) && len(b) < MaxXattrs {
			b = make([]byte, MaxXattrs)
			continue
		}
		if err != nil {
			return nil, err
		}
		return b[:size], nil
	}
}

func (n File) callXattr(byFD func(int) (int, error), byPath func(string) (int, error)) (int, error) {
	if n.FD >= 0 {
		return byFD(n.FD)
	}
	return byPath(magicPath(n.Dir, n.Name))
}

// Layout of security.capability: linux/capability.h, struct vfs_cap_data and vfs_ns_cap_data.
const (
	capRevision = 3 // the byte with the revision
	capSize2    = 20
)

// rootlessCapability turns revision 3 of a capability, which names the root of a user namespace,
// into revision 2: an image knows nothing of the host's user namespaces. As Docker.
func rootlessCapability(value []byte) []byte {
	if len(value) > capSize2 && value[capRevision] == 3 {
		value[capRevision] = 2
		return value[:capSize2]
	}
	return value
}
