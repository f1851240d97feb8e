// Package treediff compares two directory trees, usually a layer and the one below it, and lists how
// the upper differs from the lower as [backend.Change]s: in path order, a directory with changes before
// what it holds.
//
// # Rules
//
// They are those of Docker (docker/docker pkg/archive, ChangesDirs), so that `docker diff` says the
// same whatever the backend, with three additions that a layer tar can hold and that would be lost
// otherwise: a symbolic link's target and extended attributes are compared, and owners by ID map.
//
//	lower        upper        listed
//	-            anything     A; a directory's content as A too
//	anything     -            D, without what a directory held
//	file         file         C if mode, owner, device number, extended attributes, size, mtime or link target differ
//	directory    directory    C if mode, owner or extended attributes differ, or if anything is listed inside
//	file         directory    C for the directory, A for what it holds
//	directory    file         C for the file; what the directory held is not listed
//	directory    another      like directory/directory: C if listed, with an entry for each old name that is
//	             directory    gone (D), kept but different (C), and each new name (A)
//
// A file is anything but a directory; two kinds of file differ in mode. Two mtimes are equal if they
// are identical or if the seconds match and either has no nanoseconds, as after a trip through a tar. The clock of a file
// system stands still for some milliseconds: the content of an upper file is compared, too, if its inode has not changed since about its
// mtime, for it may have been written in the moment in which the lower one was. Not
// compared: mtimes and sizes of directories, access and change times, inode numbers, content else, and whether
// two names are hard links. The root is never listed.
//
// Of the extended attributes, those are compared that belong to the content: user.*, trusted.*,
// system.* and security.capability. Labels that the kernel puts on files by itself (security.selinux and
// the like), the marks of overlayfs (trusted.overlay.*, user.overlay.*) and btrfs.* are not.
//
// A tar with the listed paths, a deletion being a whiteout and a C or A of other than directory upon
// directory replacing what was there, makes the lower tree equal to the upper one in all that is compared.
//
// # Cost
//
// Both trees are walked side by side, one directory at a time: memory is the depth times the size of a
// directory, and changes come out as they are found. Names with the same inode on the same device are passed
// over without a stat. Symbolic links are not followed, mount points are not crossed but are an error.
//
// The trees may be in use. What vanishes during the walk counts as missing.
package treediff

import (
	"strings"

	"strata/backend"
)

// Options adapt a comparison. The zero value compares owners as they are on disk.
type Options struct {
	// UpperIDs and LowerIDs tell how owners are stored in each tree. If they differ, owners are compared
	// as the container sees them; an owner that is not mapped differs from all.
	UpperIDs, LowerIDs *backend.IDMap
	// Unchanged, if not nil, is asked about a name that both trees have with the same inode number
	// (d_ino): dev is the device of the upper directory that it is in. True passes the name over with
	// all below it. It is for trees that share inode numbers, such as snapshots.
	Unchanged func(dev, ino uint64) bool
}

// compared reports whether an extended attribute is part of the content.
func compared(name string) bool {
	switch {
	case name == "security.capability":
		return true
	case strings.HasPrefix(name, "trusted.overlay."), strings.HasPrefix(name, "user.overlay."):
		return false
	}
	return strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "trusted.") || strings.HasPrefix(name, "system.")
}
