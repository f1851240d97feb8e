package layertar

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strata/backend"
)

const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
)

// attrs are the properties of a file as they are to be on disk.
type attrs struct {
	mode     uint32 // 12 bits
	uid, gid uint32
	times    [2]unix.Timespec // access, modification
	xattrs   []xattr
}

// newAttrs takes the properties from an entry.
func newAttrs(e *entry, m *backend.IDMap) (attrs, error) {
	// The kernel takes the highest ID for "leave as it is".
	if e.uid < 0 || e.gid < 0 || e.uid >= math.MaxUint32 || e.gid >= math.MaxUint32 {
		return attrs{}, fmt.Errorf("owner %d:%d is out of range: %w", e.uid, e.gid, errdefs.ErrInvalidArgument)
	}
	a := attrs{mode: e.mode & modeBits}
	var err error
	if a.uid, a.gid, err = m.ToHost(uint32(e.uid), uint32(e.gid)); err != nil {
		return attrs{}, err
	}
	atime := e.atime
	if atime.before(e.mtime) { // as Docker: no file was last read before it was last written
		atime = e.mtime
	}
	a.times = [2]unix.Timespec{{Sec: atime.sec, Nsec: atime.nsec}, {Sec: e.mtime.sec, Nsec: e.mtime.nsec}}
	for _, x := range e.xattrs {
		if !foreignXattr(x.name) {
			a.xattrs = append(a.xattrs, x)
		}
	}
	return a, nil
}

func (a *attrs) has(name string) bool {
	for i := range a.xattrs {
		if a.xattrs[i].name == name {
			return true
		}
	}
	return false
}

// node is a file that was just made or, if it is a directory, merged: reached by fd if that is not
// -1, else by name in dir without following symlinks.
type node struct {
	fd   int
	dir  int
	name string
	acl  bool // may have inherited ACLs
}

// set gives the node its properties, changing only what differs, in the order that the kernel
// wants: a change of owner clears setuid bits and capabilities, an ACL changes the mode. Times come
// last and are not set here.
func (n node) set(a *attrs) error {
	var st unix.Stat_t
	if err := n.stat(&st); err != nil {
		return err
	}
	owned := st.Uid == a.uid && st.Gid == a.gid
	if !owned {
		if err := n.chown(a.uid, a.gid); err != nil {
			return fmt.Errorf("set owner %d:%d: %w", a.uid, a.gid, err)
		}
	}
	if n.acl && st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := n.dropACLs(a); err != nil {
			return err
		}
	}
	for i := range a.xattrs {
		if err := n.setXattr(&a.xattrs[i]); err != nil {
			return err
		}
	}
	return n.setMode(a, &st, owned)
}

// setMode sets the mode if it is not, or may no longer be, the one that st says the file had before
// set changed it. owned tells that the file kept its owner.
func (n node) setMode(a *attrs, st *unix.Stat_t, owned bool) error {
	if st.Mode&unix.S_IFMT == unix.S_IFLNK { // symlinks have no mode of their own
		return nil
	}
	lost := !owned && a.mode&(unix.S_ISUID|unix.S_ISGID) != 0
	if st.Mode&modeBits == a.mode && !lost && !n.acl && !a.has(aclAccess) {
		return nil
	}
	if err := n.chmod(a.mode); err != nil {
		return fmt.Errorf("set mode %#o: %w", a.mode, err)
	}
	return nil
}

func (n node) stat(st *unix.Stat_t) error {
	if n.fd >= 0 {
		return unix.Fstat(n.fd, st)
	}
	return unix.Fstatat(n.dir, n.name, st, unix.AT_SYMLINK_NOFOLLOW)
}

func (n node) chown(uid, gid uint32) error {
	if n.fd >= 0 {
		return unix.Fchown(n.fd, int(uid), int(gid))
	}
	return unix.Fchownat(n.dir, n.name, int(uid), int(gid), unix.AT_SYMLINK_NOFOLLOW)
}

// chmod is not called for symlinks, and nobody but us works in the directory.
func (n node) chmod(mode uint32) error {
	if n.fd >= 0 {
		return unix.Fchmod(n.fd, mode)
	}
	return unix.Fchmodat(n.dir, n.name, mode, 0)
}

func (n node) setTimes(a *attrs) error {
	if err := unix.UtimesNanoAt(n.dir, n.name, a.times[:], unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}

// magicPath names a file in an open directory for system calls that know paths only. The last
// component is the file itself, so the l variants of those calls do not follow it.
func magicPath(dir int, name string) string { return fmt.Sprintf("/proc/self/fd/%d/%s", dir, name) }

// setXattr sets an attribute. Attributes that say nothing about rights, and that this file system
// or this kind of file cannot have, are left out as Docker leaves them out (user.* on a symlink is
// EPERM, on a file system without attributes ENOTSUP). Capabilities and ACLs are never left out.
func (n node) setXattr(x *xattr) error {
	var err error
	if n.fd >= 0 {
		err = unix.Fsetxattr(n.fd, x.name, []byte(x.value), 0)
	} else {
		err = unix.Lsetxattr(magicPath(n.dir, n.name), x.name, []byte(x.value), 0)
	}
	if err == nil {
		return nil
	}
	if (errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM)) && optionalXattr(x.name) {
		return nil
	}
	return fmt.Errorf("set attribute %q: %w", x.name, err)
}

// optionalXattr tells which attributes may be left out if the disk cannot have them: the user's,
// and labels that belong to the host rather than to an image.
func optionalXattr(name string) bool {
	return strings.HasPrefix(name, "user.") || name == "security.selinux" || name == "security.ima" || name == "security.evm"
}

// dropACLs removes what was inherited from a default ACL that unpacking put, or found, in the
// parent: an entry has the ACLs that the tar gives it.
func (n node) dropACLs(a *attrs) error {
	for _, name := range []string{aclAccess, aclDefault} {
		if a.has(name) {
			continue
		}
		var err error
		if n.fd >= 0 {
			err = unix.Fremovexattr(n.fd, name)
		} else {
			err = unix.Lremovexattr(magicPath(n.dir, n.name), name)
		}
		if err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EACCES) {
			return fmt.Errorf("remove inherited %s: %w", name, err)
		}
	}
	return nil
}

// hasDefaultACL reports whether files made in the directory inherit an ACL.
func hasDefaultACL(fd int) (bool, error) {
	_, err := unix.Fgetxattr(fd, aclDefault, nil)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read %s: %w", aclDefault, err)
	}
	return true, nil
}
