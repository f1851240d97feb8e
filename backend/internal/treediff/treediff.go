// Package treediff compares two directory trees, usually a layer and the one below it, and lists how
// the upper differs from the lower as [backend.Change]s: in path order, a directory with changes before
// what it holds.
//
// # Rules
//
// What a layer tar can hold and what differs is listed:
//
//	lower        upper        listed
//	-            anything     A; a directory's content as A too
//	anything     -            D, without what a directory held
//	file         file         C if mode, owner, device number, extended attributes, size, mtime, link target or content differ
//	directory    directory    C if mode, owner, extended attributes or mtime differ, or if anything is listed inside
//	file         directory    C for the directory, A for what it holds
//	directory    file         C for the file; what the directory held is not listed
//	directory    another      like directory/directory: C if listed, with an entry for each old name that is
//	             directory    gone (D), kept but different (C), and each new name (A)
//
// A file is anything but a directory; two kinds of file differ in mode. Times are compared to the nanosecond. Since
// anybody can set an mtime, two files that look the same are read, unless they share their blocks. Names that are one file
// in the upper tree are listed all if one of them is, or if they are not one file in the lower tree (Linker), so
// that they are one file again where the changes are applied. Not compared: sizes of directories, access and change
// times, inode numbers. The root is never listed.
//
// Docker (docker/docker pkg/archive, ChangesDirs) takes two mtimes for the same if the seconds match and either has no
// nanoseconds, and compares no content, no link targets, few attributes, no times of directories and no hard links: all that
// Docker lists is listed here, too.
//
// Of the extended attributes, those are compared that belong to the content (dirfd.RoleOf): what is packed. File.Marks
// tells marks of overlayfs from what an overlay inside a container needs.
//
// A tar with the listed paths, a deletion being a whiteout and a C or A of other than directory upon
// directory replacing what was there, makes the lower tree equal to the upper one in all that is compared.
//
// # Cost
//
// Both trees are walked side by side, one directory at a time (tree.Walk): memory is twice the largest directory, some 16 bytes
// for each level, and what Linker needs. Depth bounds neither the descriptors nor the length of a path. The trees are walked again if a file is listed under some of its names only, or if there are more
// changes than Linker remembers. Names with the same inode on the same device are passed
// over without a stat. Symbolic links are not followed, mount points are not crossed but are an error.
//
// The trees may be in use. What vanishes during the walk counts as missing, and so does what is left of an upper directory that is moved
// away meanwhile, if it is far above; of a lower one it is an error.
package treediff

import "strata/backend"

// Options adapt a comparison. The zero value compares owners as they are on disk.
type Options struct {
	// UpperIDs and LowerIDs tell how owners are stored in each tree. If they differ, owners are compared
	// as the container sees them; an owner that is not mapped differs from all.
	UpperIDs, LowerIDs *backend.IDMap
	// Unchanged, if not nil, is asked about a name that both trees have with the same inode number
	// (d_ino): dev is the device of the upper directory that it is in. True passes the name over with
	// all below it. It is for trees that share inode numbers, such as snapshots.
	Unchanged func(dev, ino uint64) bool
	// OneDisk says that both trees lie on one file system even if their devices differ, as with subvolumes.
	// Files of one device need it not.
	OneDisk bool
}
