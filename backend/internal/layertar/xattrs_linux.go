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
func readXattrs(n node, marks backend.Whiteouts) ([]xattr, error) {
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

// listXattrs returns the names, each ended by a NUL. Most files have none, so the first try is with a
// small buffer.
func (n node) listXattrs() (string, error) {
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

func (n node) getXattr(name string) ([]byte, error) {
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

func (n node) callXattr(byFD func(int) (int, error), byPath func(string) (int, error)) (int, error) {
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
