// Package tree works on whole directory trees: it removes, measures and copies them.
//
// Everything goes by directory descriptors. No symbolic link inside a tree is ever followed and no
// mount point inside it is ever crossed, whatever other processes do to the tree meanwhile: a
// directory is entered with openat2(2) and RESOLVE_NO_XDEV or, on kernels before 5.6, by comparing
// the mount IDs in /proc/self/fdinfo. Only the path that a caller passes is resolved as usual.
//
// A btrfs subvolume inside a tree is not a mount point and is treated as the directory that it looks like.
//
// [Walk] is what walks are made of, here and in other packages. It takes some hundred bytes for each level of
// a tree, a bounded number of descriptors, and no stack, so that neither RLIMIT_NOFILE nor PATH_MAX nor memory bounds the depth.
//
// All functions may be called concurrently. They are for Linux; elsewhere they return
// errdefs.ErrNotImplemented.
package tree
