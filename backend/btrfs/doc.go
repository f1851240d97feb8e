// Package btrfs keeps each layer as a btrfs subvolume, a snapshot of its parent's.
//
// # On disk
//
//	<home>/<ID>    a subvolume, the layer's root directory: all files, as the container sees them
//
// Nothing else is kept, neither files nor snapshots. A sealed layer has the read-only property. With quotas, the
// qgroup 0/<subvolume ID> that btrfs makes by itself is used for limits and removed with the layer; quotas
// are never switched on or off, nor is a rescan ever started.
//
// An interrupted Create leaves at most the subvolume, an interrupted Remove leaves the subvolume or
// its qgroup with nothing in it; calling Remove again finishes both.
//
// # What changed
//
// A snapshot shares its inode numbers and its B-tree blocks with its parent, and each block and each inode
// item carries the number of the transaction (generation) that last wrote it. So Narrow searches the
// layer's tree for blocks that are younger than the snapshot, which skips all that is shared; collects
// the inodes in them that were touched since; adds the directories above those; and has the two trees compared
// (package treediff) with everything else passed over. A removed name touches the inode of its directory.
// The work is proportional to the changes and to the size of the directories that lead to them, not to
// the layer. The comparison decides in the end: the answer is that of a complete one.
//
// Usage adds up the extents and inodes younger than the snapshot in the same way. It needs no quotas, counts what
// the layer itself brought to the disk whether or not children share it by now, and counts compressed
// data as it is stored. An extent of the layer that is partly overwritten counts as a whole, as it
// occupies the disk.
//
// If a layer is no snapshot of its parent, because the parent lies on another file system (it was copied) or
// the layers were moved here with btrfs send, both trees are compared completely, and all of the
// layer counts as its own.
//
// # Nested subvolumes
//
// A container with the rights to do so can make subvolumes in its layer. A snapshot has empty directories in
// their place, so Create makes snapshots of them, too: a child shows all that its parent shows. Remove
// deletes them, deepest first.
//
// # The kernel
//
// Package ioctl asks the kernel. github.com/containerd/btrfs needs cgo, which a static binary is to do without, and knows
// neither searches by age nor qgroups. github.com/dennwc/btrfs is pure Go, but has never had a release, and takes paths,
// in which a container may have put links, where a descriptor is needed.
//
// # Needs
//
// Linux 4.18 (BTRFS_IOC_GET_SUBVOL_INFO) and CAP_SYS_ADMIN, for tree searches and for deleting subvolumes.
package btrfs
