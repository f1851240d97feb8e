// Package tree works on whole directory trees: it removes, measures and copies them.
//
// Everything goes by directory descriptors. No symbolic link inside a tree is ever followed and no
// mount point inside it is ever crossed, whatever other processes do to the tree meanwhile: a
// directory is entered with openat2(2) and RESOLVE_NO_XDEV or, on kernels before 5.6, by comparing
// the mount IDs in /proc/self/fdinfo. Only the path that a caller passes is resolved as usual.
//
// A btrfs subvolume inside a tree is not a mount point and is treated as the directory that it looks like.
//
// Each level of a tree costs [Copy] two descriptors and [Usage] one, so that trees deeper than
// RLIMIT_NOFILE allows are an error. [RemoveAll] has no such limit.
//
// All functions may be called concurrently. They are for Linux; elsewhere they return
// errdefs.ErrNotImplemented.
package tree
