// Package overlay keeps each layer as the directory of its changes and shows a layer with those below
// it by an overlay mount.
//
// # On disk
//
//	<home>/<ID>/diff/     the layer's own files: the upper directory
//	<home>/<ID>/work/     what an overlay mount needs for itself; its content means nothing
//	<home>/<ID>/idmapped  empty; parents that are stored with another ID map are to be shown with this
//	                      layer's. Missing if the layer holds files of its own in their place
//	<home>/.empty/        an empty directory
//	<home>/.probe-*       left by a process killed while it probed; removed at the next start
//
// In diff, a deleted path is a character device 0:0 and a replaced directory has
// trusted.overlay.opaque=y (user.overlay.opaque where trusted attributes are not permitted), as the
// kernel writes them (Documentation/filesystems/overlayfs.rst). Whiteouts as regular files with
// trusted.overlay.whiteout are read too. There is no whiteout where the layers below have nothing, since the kernel would
// show its name in a directory that it does not merge. A character device 0:0 in a layer's tar is a whiteout, too: overlayfs can
// show no such device. Other backends keep it as a device.
//
// A layer that has no parents yet but may get some (Detached) also has whiteouts that hide nothing, and directories with
// trusted.overlay.strata.implied=y, which overlayfs does not show: nothing is known about them but that something lies in them.
// Rebase settles both.
//
// An upper directory means the same whatever kernel reads it: the mount options say redirect_dir=nofollow,
// metacopy=off and index=off, whatever the kernel's defaults are, where it knows those options. A directory
// that a foreign mount has written with redirects or metadata-only copies cannot be read without its lower
// directories; for such a layer Changes returns ErrNotImplemented before the first change.
//
// # Mounts
//
// A base layer is a bind mount of diff, a layer on top of others an overlay, and a sealed one an overlay
// without an upper directory. A layer whose parents have other owners on disk shows them by idmapped
// mounts. A bind mount takes no SELinux label; with a label, even a base layer is an overlay, above .empty. So is one that may get parents later, whose
// whiteouts must not be seen as devices.
//
// # Crashes
//
// Create builds in place, so a half-made layer is a directory that Remove deletes. Nothing is written
// elsewhere.
package overlay
