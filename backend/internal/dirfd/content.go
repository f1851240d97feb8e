package dirfd

import (
	"strings"

	"strata/backend"
)

// Names of extended attributes with a meaning of their own.
const (
	Capability = "security.capability"
	ACL        = "system.posix_acl_access"
	DefaultACL = "system.posix_acl_default"
)

// Role is what an extended attribute is to a layer:
//
//	role     names                                          compared  packed  unpacked    copied
//	Content  user.*, trusted.*, Capability, ACL, DefaultACL yes       yes     yes         yes
//	Mark     trusted.overlay.*, and user.overlay.* where    no        no      left out    with a whole tree only
//	         the overlayfs that mounts the layer marks so
//	Storage  what is in no namespace of Linux's: how one    no        no      left out    as far as it can
//	         file system stores the file (btrfs.compression,
//	         which files below inherit), or another system's
//	Other    labels of the host (security.selinux and the   no        no      as far as   as far as it can
//	         like), other system.*                                    it can
//
// Packing is making a tar of a layer, and unpacking the reverse: a tar of another builder may have attributes that are
// never packed here. Who copies a whole tree (package tree) makes another layer of the same mount options of it, with
// its marks.
type Role int

// The roles.
const (
	Other Role = iota
	Content
	Mark
	Storage
)

// RoleOf returns the role of the attribute of this name in a layer whose mount makes these marks, none if it is no
// overlay. Marks in trusted.* are marks everywhere. Those in user.* that an overlay inside a container makes are content
// like any other, unless the layer's own are called so.
func RoleOf(name string, marks backend.Whiteouts) Role {
	space, _, _ := strings.Cut(name, ".")
	switch {
	case strings.HasPrefix(name, "trusted.overlay."),
		marks == backend.WhiteoutsOverlayUser && strings.HasPrefix(name, "user.overlay."):
		return Mark
	case space == "user", space == "trusted", name == Capability, name == ACL, name == DefaultACL:
		return Content
	case space != "security" && space != "system": // xattr(7) names these four namespaces
		return Storage
	}
	return Other
}

// IsContent returns whether attributes are Content, for File.Xattrs.
func IsContent(marks backend.Whiteouts) func(name string) bool {
	return func(name string) bool { return RoleOf(name, marks) == Content }
}
