// Package changed finds out which inodes of a btrfs subvolume have changed since it was made as a snapshot of another, by
// a search for what younger transactions have written in its tree.
//
// Nothing is written but what the file system still has to write: a transaction is committed first. The functions may be
// called concurrently; memory grows with the number of changed inodes, not with the tree. They want CAP_SYS_ADMIN. Errors
// are those of package ioctl.
package changed
