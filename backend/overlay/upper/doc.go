// Package upper reads upper directories of overlayfs without mounting them: what one of them changes in those below it,
// and what those show together.
//
// It reads marks and merges directories as the kernel does (Documentation/filesystems/overlayfs.rst, fs/overlayfs/namei.c):
// a character device 0:0 and, in a directory with the opaque mark "x", an empty regular file with the whiteout mark are
// whiteouts; the opaque mark "y" hides what is below. A redirect or a file that is only a copy of metadata makes a
// directory that cannot be read alone: ErrNotImplemented.
//
// Nothing is written. The functions may be called concurrently. Memory and descriptors do not grow with the depth or the
// size of the trees, and no walk crosses a mount point.
package upper
