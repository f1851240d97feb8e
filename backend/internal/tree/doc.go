// Package tree works on whole directory trees: it removes, measures and copies them.
//
// Everything goes by directory descriptors (package dirfd). No symbolic link inside a tree is ever followed and
// no mount point inside it is ever crossed, whatever other processes do to the tree meanwhile. Only the path that
// a caller passes is resolved as usual. Neither RLIMIT_NOFILE nor PATH_MAX bounds the depth of a tree.
//
// A btrfs subvolume inside a tree is not a mount point and is treated as the directory that it looks like.
//
// All functions may be called concurrently. They are for Linux; elsewhere they return
// errdefs.ErrNotImplemented.
package tree
