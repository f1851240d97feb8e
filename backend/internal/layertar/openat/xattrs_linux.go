package openat

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"strata/backend"
	"strata/backend/internal/dirfd"
	"strata/backend/internal/layertar/tarcodec"
)

// ReadXattrs returns the file's attributes that go into a tar, sorted by name. Marks of how layers are merged do not.
func ReadXattrs(n File, marks backend.Whiteouts) ([]tarcodec.Xattr, error) {
	found, err := n.named().Xattrs(dirfd.IsContent(marks))
	if err != nil {
		return nil, err
	}
	var list []tarcodec.Xattr
	for _, x := range found {
		if x.Name == dirfd.Capability {
			x.Value = rootlessCapability(x.Value)
		}
		list = append(list, tarcodec.Xattr{Name: x.Name, Value: string(x.Value)})
	}
	return list, nil
}

// File is a file that is reached by fd if that is not -1, else by name in dir without following symlinks.
type File struct {
	FD   int
	Dir  int
	Name string
}

func (n File) named() dirfd.File {
	d := dirfd.Dir{FD: n.Dir}
	if n.FD >= 0 {
		return d.Opened(n.Name, n.FD)
	}
	return d.File(n.Name)
}

// Stat looks at the file.
func (n File) Stat(st *unix.Stat_t) (err error) {
	*st, err = n.named().Stat()
	return bare(err)
}

// bare returns the errno in an error, which callers wrap in words of their own.
func bare(err error) error {
	var named *os.PathError
	if errors.As(err, &named) {
		return named.Err
	}
	return err
}

// SetXattr gives the file an attribute.
func (n File) SetXattr(name, value string) error {
	return bare(n.named().SetXattr(name, []byte(value)))
}

// RemoveXattr takes an attribute from the file.
func (n File) RemoveXattr(name string) error { return bare(n.named().RemoveXattr(name)) }

// ListXattrs returns the names, each ended by a NUL.
func (n File) ListXattrs() (string, error) {
	names, err := n.named().ListXattrs()
	return names, bare(err)
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
