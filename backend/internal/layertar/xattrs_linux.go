package layertar

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"strata/backend"
	files "strata/backend/internal/tree"
)

// maxXattrs is the largest list of names and the largest value that Linux has (XATTR_LIST_MAX,
// XATTR_SIZE_MAX).
const maxXattrs = 64 << 10

// readXattrs returns the node's attributes that go into a tar, sorted by name. Marks of how layers are merged do not.
func readXattrs(n file, marks backend.Whiteouts) ([]xattr, error) {
	names, err := n.listXattrs()
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list attributes: %w", files.ListError(err))
	}
	var list []xattr
	for name := range strings.SplitSeq(names, "\x00") {
		if name == "" || !packedXattr(name, marks) {
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
		list = append(list, xattr{name, string(value)})
	}
	slices.SortFunc(list, func(a, b xattr) int { return strings.Compare(a.name, b.name) })
	return list, nil
}

// file is a file that is reached by fd if that is not -1, else by name in dir without following symlinks.
type file struct {
	fd   int
	dir  int
	name string
}

// stat looks at the file.
func (n file) stat(st *unix.Stat_t) error {
	if n.fd >= 0 {
		return unix.Fstat(n.fd, st)
	}
	return unix.Fstatat(n.dir, n.name, st, unix.AT_SYMLINK_NOFOLLOW)
}

// magicPath names a file in an open directory for system calls that know paths only. The last
// component is the file itself, so the l variants of those calls do not follow it.
func magicPath(dir int, name string) string { return fmt.Sprintf("/proc/self/fd/%d/%s", dir, name) }

// setXattr gives the file an attribute.
func (n file) setXattr(name, value string) error {
	if n.fd >= 0 {
		return unix.Fsetxattr(n.fd, name, []byte(value), 0)
	}
	return unix.Lsetxattr(magicPath(n.dir, n.name), name, []byte(value), 0)
}

// removeXattr takes an attribute from the file.
func (n file) removeXattr(name string) error {
	if n.fd >= 0 {
		return unix.Fremovexattr(n.fd, name)
	}
	return unix.Lremovexattr(magicPath(n.dir, n.name), name)
}

// listXattrs returns the names, each ended by a NUL. Most files have none, so the first try is with a
// small buffer.
func (n file) listXattrs() (string, error) {
	var small [256]byte
	b := small[:]
	for {
		size, err := n.callXattr(func(fd int) (int, error) { return unix.Flistxattr(fd, b) },
			func(path string) (int, error) { return unix.Llistxattr(path, b) })
		if errors.Is(err, unix.ERANGE) && len(b) < maxXattrs {
			b = make([]byte, maxXattrs)
			continue
		}
		if err != nil {
			return "", err
		}
		return string(b[:size]), nil
	}
}

// getXattr returns the value of an attribute.
func (n file) getXattr(name string) ([]byte, error) {
	b := make([]byte, 256)
	for {
		size, err := n.callXattr(func(fd int) (int, error) { return unix.Fgetxattr(fd, name, b) },
			func(path string) (int, error) { return unix.Lgetxattr(path, name, b) })
		if errors.Is(err, unix.ERANGE) && len(b) < maxXattrs {
			b = make([]byte, maxXattrs)
			continue
		}
		if err != nil {
			return nil, err
		}
		return b[:size], nil
	}
}

func (n file) callXattr(byFD func(int) (int, error), byPath func(string) (int, error)) (int, error) {
	if n.fd >= 0 {
		return byFD(n.fd)
	}
	return byPath(magicPath(n.dir, n.name))
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
