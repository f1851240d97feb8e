// Package ioctl is a client of the kernel's btrfs: subvolumes, snapshots, qgroups, and searches in the trees of a file
// system (BTRFS_IOC_*, include/uapi/linux/btrfs.h and btrfs_tree.h). It knows nothing of layers.
//
// A descriptor leads to any file on the file system unless a function says otherwise. All functions may be called
// concurrently. They want CAP_SYS_ADMIN for searches and deletions, and Linux 4.18. An error is the kernel's errno with
// what was asked; ErrInvalidArgument for a name that no subvolume can have, EUCLEAN for an item that is too short.
//
// What a call has made or deleted survives a crash as soon as the kernel has committed: [Sync] waits for that.
package ioctl
