package idmap

import (
	"encoding/binary"
	"fmt"

	"github.com/containerd/errdefs"

	"strata/backend"
	"strata/backend/internal/dirfd"
)

// Formats: struct vfs_ns_cap_data in include/uapi/linux/capability.h, struct posix_acl_xattr_header
// and posix_acl_xattr_entry in include/uapi/linux/posix_acl_xattr.h. Both are little-endian.
const (
	capRevisionMask = 0xFF000000
	capRevision3    = 0x03000000
	capSize3        = 24
	capRootID       = 20 // offset

	aclVersion  = 2
	aclHeader   = 4
	aclEntry    = 8
	aclEntryID  = 4 // offset in an entry
	aclTagUser  = 0x02
	aclTagGroup = 0x08
)

// Owner returns how an owner that is stored with one map is stored with another. ErrInvalidArgument for one that either does not know.
func Owner(from, to *backend.IDMap, uid, gid uint32) (uint32, uint32, error) {
	if from.Equal(to) {
		return uid, gid, nil
	}
	return (&walker{from: from, to: to}).translate(uid, gid)
}

// Attribute changes the IDs in the value of an extended attribute likewise, in place.
func Attribute(from, to *backend.IDMap, name string, value []byte) error {
	w := &walker{from: from, to: to}
	rewrite := w.rewriter(name)
	if rewrite == nil || from.Equal(to) {
		return nil
	}
	if err := rewrite(value); err != nil {
		return fmt.Errorf("attribute %s: %w", name, err)
	}
	return nil
}

// rewriter returns how the IDs in an attribute are changed in place, nil if it needs no attention.
func (w *walker) rewriter(name string) func([]byte) error {
	switch name {
	case dirfd.Capability:
		return w.capability
	case dirfd.ACL, dirfd.DefaultACL:
		return w.acl
	}
	return nil
}

// capability changes the root ID that the capabilities of a file are valid for. Those of the older
// revisions, which have none, are kept as they are: they are valid everywhere.
func (w *walker) capability(value []byte) error {
	if len(value) < 4 || binary.LittleEndian.Uint32(value)&capRevisionMask != capRevision3 {
		return nil
	}
	if len(value) != capSize3 {
		return fmt.Errorf("%d bytes: %w", len(value), errdefs.ErrDataLoss)
	}
	root, err := w.translateUser(binary.LittleEndian.Uint32(value[capRootID:]))
	if err != nil {
		return err
	}
	binary.LittleEndian.PutUint32(value[capRootID:], root)
	return nil
}

// acl changes the IDs in an access control list.
func (w *walker) acl(value []byte) error {
	if len(value) < aclHeader || (len(value)-aclHeader)%aclEntry != 0 || binary.LittleEndian.Uint32(value) != aclVersion {
		return fmt.Errorf("not an access control list: %w", errdefs.ErrDataLoss)
	}
	for e := value[aclHeader:]; len(e) > 0; e = e[aclEntry:] {
		var translate func(uint32) (uint32, error)
		switch binary.LittleEndian.Uint16(e) {
		case aclTagUser:
			translate = w.translateUser
		case aclTagGroup:
			translate = w.translateGroup
		default:
			continue
		}
		id, err := translate(binary.LittleEndian.Uint32(e[aclEntryID:]))
		if err != nil {
			return err
		}
		binary.LittleEndian.PutUint32(e[aclEntryID:], id)
	}
	return nil
}
