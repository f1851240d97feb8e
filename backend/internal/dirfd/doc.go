// Package dirfd reaches files by descriptors of the directories that they are in.
//
// A caller names the root of a tree by a path, which is resolved as usual. From there on no symbolic link is
// followed and no mount point is crossed, whatever other processes do to the tree meanwhile: openat2(2) sees to
// it or, on kernels before 5.6, a comparison of the mount IDs in /proc/self/fdinfo.
//
// A btrfs subvolume inside a tree is no mount point. It is treated as the directory that it looks like.
//
// [Walk] is what walks are made of. It takes some hundred bytes for each level of a tree, a bounded number of
// descriptors and no stack: neither RLIMIT_NOFILE nor PATH_MAX nor memory bounds the depth.
//
// All of it is for Linux.
package dirfd
