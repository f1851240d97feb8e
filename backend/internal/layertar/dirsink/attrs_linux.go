package dirsink

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strata/backend"
	"strata/backend/internal/dirfd"
	"strata/backend/internal/layertar/openat"
	"strata/backend/internal/layertar/tarcodec"
)

// attrs are the properties of a file as they are to be on disk.
type attrs struct {
	mode     uint32 // 12 bits
	uid, gid uint32
	times    [2]unix.Timespec // access, modification
	xattrs   []backend.Xattr
	entry    string           // the name in the tar
	host     backend.Unpacker // nil if the properties are not a tar's: then no attribute is left out
}

// newAttrs takes the properties from an entry.
func (a *sink) newAttrs(e *backend.Entry) attrs {
	return attrs{
		mode: e.Mode & tarcodec.ModeBits, uid: e.UID, gid: e.GID, times: [2]unix.Timespec{timespec(e.Atime), timespec(e.Mtime)},
		xattrs: e.Xattrs, entry: e.Name, host: a.host,
	}
}

func timespec(t time.Time) unix.Timespec {
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}

// leaveOut notes an attribute that the file will not have.
func (a *attrs) leaveOut(name string, why error) { a.host.LeaveOut(name, a.entry, why) }

func (a *attrs) has(name string) bool {
	for i := range a.xattrs {
		if a.xattrs[i].Name == name {
			return true
		}
	}
	return false
}

// node is a file that was just made or, if it is a directory, merged.
type node struct {
	openat.File
	acl bool // may have inherited ACLs
}

// set gives the node its properties, changing only what differs, in the order that the kernel
// wants: a change of owner clears setuid bits and capabilities, an ACL changes the mode. Times come
// last and are not set here.
func (n node) set(a *attrs) error {
	var st unix.Stat_t
	if err := n.Stat(&st); err != nil {
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
		name := a.xattrs[i].Name
		err := n.SetXattr(name, a.xattrs[i].Value)
		if err != nil && a.host != nil && absentXattr(name, st.Mode, err) {
			a.leaveOut(name, err)
			continue
		}
		if err != nil {
			return fmt.Errorf("set attribute %q of %d bytes: %w", name, len(a.xattrs[i].Value), n.tooLarge(err))
		}
	}
	return n.setMode(a, &st, owned)
}

// nearlyFull is how much a disk may have left that is full to an attribute, bytes: the largest value, and what is allocated with it.
const nearlyFull = 2 * dirfd.MaxXattrs

// tooLarge tells apart what setxattr(2) has one error for (ENOSPC): it returns err if the disk is full, else what the file system
// cannot keep.
func (n node) tooLarge(err error) error {
	var st unix.Statfs_t
	fd := n.FD
	if fd < 0 {
		fd = n.Dir
	}
	if !errors.Is(err, unix.ENOSPC) || unix.Fstatfs(fd, &st) != nil {
		return err
	}
	if int64(st.Bavail)*st.Bsize <= nearlyFull || st.Files > 0 && st.Ffree == 0 { //nolint:gosec // a disk has less than 2^63 bytes
		return err
	}
	limit := ""
	switch st.Type {
	case unix.EXT4_SUPER_MAGIC:
		limit = fmt.Sprintf("; ext4 keeps %d KiB of attributes a file, unless it was made with mkfs.ext4 -O ea_inode", st.Bsize>>10)
	case unix.BTRFS_SUPER_MAGIC:
		limit = "; btrfs keeps an attribute of somewhat less than a node, which mkfs.btrfs --nodesize sets"
	}
	return fmt.Errorf("the disk is not full, but its file system does not keep so much%s: %w", limit, errdefs.ErrNotImplemented)
}

// setMode sets the mode if it is not, or may no longer be, the one that st says the file had before
// set changed it. owned tells that the file kept its owner.
func (n node) setMode(a *attrs, st *unix.Stat_t, owned bool) error {
	if st.Mode&unix.S_IFMT == unix.S_IFLNK { // symlinks have no mode of their own
		return nil
	}
	lost := !owned && a.mode&(unix.S_ISUID|unix.S_ISGID) != 0
	if st.Mode&tarcodec.ModeBits == a.mode && !lost && !n.acl && !a.has(tarcodec.ACLAccess) {
		return nil
	}
	if err := n.chmod(a.mode); err != nil {
		return fmt.Errorf("set mode %#o: %w", a.mode, err)
	}
	return nil
}

func (n node) chown(uid, gid uint32) error {
	if n.FD >= 0 {
		return unix.Fchown(n.FD, int(uid), int(gid))
	}
	return unix.Fchownat(n.Dir, n.Name, int(uid), int(gid), unix.AT_SYMLINK_NOFOLLOW)
}

// chmod is not called for symlinks, and nobody but us works in the directory.
func (n node) chmod(mode uint32) error {
	if n.FD >= 0 {
		return unix.Fchmod(n.FD, mode)
	}
	return unix.Fchmodat(n.Dir, n.Name, mode, 0)
}

func (n node) setTimes(a *attrs) error {
	if err := unix.UtimesNanoAt(n.Dir, n.Name, a.times[:], unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}

// absentXattr reports whether an error of setxattr(2) says that there is no such attribute: Linux or the file system does
// not know the name for a file of this mode (ENOTSUP), user.* is for files and directories only (EPERM, xattr(7)), or a label
// belongs to the host rather than to an image. A capability gives rights to a program, so it is never left out; neither
// is what the file system knows and cannot store.
func absentXattr(name string, mode uint32, err error) bool {
	kind := mode & unix.S_IFMT
	switch {
	case name == "security.capability":
		return false
	case errors.Is(err, unix.ENOTSUP):
		return true
	case !errors.Is(err, unix.EPERM):
		return false
	}
	return strings.HasPrefix(name, "user.") && kind != unix.S_IFREG && kind != unix.S_IFDIR ||
		name == "security.selinux" || name == "security.ima" || name == "security.evm"
}

// dropACLs removes what was inherited from a default ACL that unpacking put, or found, in the
// parent: an entry has the ACLs that the tar gives it.
func (n node) dropACLs(a *attrs) error {
	for _, name := range []string{tarcodec.ACLAccess, tarcodec.ACLDefault} {
		if a.has(name) {
			continue
		}
		err := n.RemoveXattr(name)
		if err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EACCES) {
			return fmt.Errorf("remove inherited %s: %w", name, err)
		}
	}
	return nil
}

// hasDefaultACL reports whether files made in the directory inherit an ACL.
func hasDefaultACL(fd int) (bool, error) {
	_, err := unix.Fgetxattr(fd, tarcodec.ACLDefault, nil)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read %s: %w", tarcodec.ACLDefault, err)
	}
	return true, nil
}
