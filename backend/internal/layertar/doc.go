// Package layertar has no code of its own. Its rooms are, each above the ones before it:
//
//   - tarcodec: tar headers and names, without system calls
//   - openat: files below an open directory
//   - tarlog: the log that gives a tar back byte for byte
//   - pack: changes of a directory as a layer tar
//   - unpack: the reader of layer tars, which drives a sink
//   - dirsink: a directory as a sink, and as the source that a log is replayed from
//   - tartest: what their tests share
//
// Its test sends random tars through a directory, memory (backendtest.MemoryTree), Docker's unpacker
// and containerd's. Directory and memory agree on everything, and both give each tar back. The
// differences from the other two are wanted:
//
//   - A hard link may come before its target. Docker and containerd refuse such a tar.
//   - Marks spare what the same tar holds, in whatever order. Docker's and containerd's whiteouts delete
//     that, too, if they come after it.
//   - An opaque mark whose directory is a symbolic link hides nothing of where that leads, as in Docker;
//     containerd follows it.
//   - Marks make no directories. Docker and containerd make the one that a mark is in.
//   - A hard link gives its target the mode that the tar has for it, however the tar writes the
//     target. Docker does so only if a name such as f/../g leads to it.
//   - Hard links into .wh..wh.plnk stay hard links. Docker makes copies.
//   - What the tar gives other properties inherits neither a directory's default ACL nor its setgid
//     bit.
//   - Times before 1970 are kept. Docker takes the earliest for 1970.
//   - An entry called "/" gives the root its properties, as in Docker; containerd knows none.
//   - Device numbers are cut to 12 and 20 bits, as in Docker, but for those of which that makes 0:0,
//     which are refused; containerd refuses larger ones.
//   - Attributes in trusted.* are unpacked, but for overlayfs's own; containerd leaves all of them out.
//   - Attributes that say how a file system stores a file, such as btrfs.compression, are left out
//     everywhere. Docker and containerd set them on the file system that knows them.
package layertar
