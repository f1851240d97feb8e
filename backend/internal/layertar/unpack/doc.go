// Package unpack reads layer tars and drives a sink with what they hold.
//
// [Apply] is the one reader of layer tars. It cleans names, reads whiteouts, orders hard links, maps
// owners, digests the stream and keeps the log that gives the tar back byte for byte. A
// [backend.Sink] stores the entries: package dirsink in a directory, a backend in whatever it keeps.
//
// # Names
//
// A name is cleaned as if the tar were unpacked at "/", and so is the target of a hard link: ".." in
// the root is the root. An entry called "" or "." is passed over, one called "/" or ".." gives the
// root its properties. Symlinks within a path are the sink's matter. A name has at most 520,192 bytes
// and leads through at most 16,384 directories, both here and in what is packed. Bytes, because no
// reader takes an extension header of more than 1 MiB, in which a hard link has two names;
// directories, because the work for each of them grows with the length of its path.
//
// # Whiteouts
//
// Whiteouts act on the layers below alone (OCI image spec, layer.md), whatever order the tar has its
// entries in: .wh.NAME hides what they have under NAME, .wh..wh..opq what they have in the directory,
// and both spare what the same tar has put there. Other names that begin with .wh..wh. are left out,
// but for files in .wh..wh.plnk that hard links lead to. [Options.Literal] takes all of them for files.
//
// # Hard links
//
// A hard link may come before its target. It is made at the end of the tar, after the link that it
// leads to. A file of .wh..wh.plnk is kept in a directory of its own until then.
//
// # Properties
//
// Owners and device numbers are those that Docker's system calls take them for: device numbers are cut
// to 12 and 20 bits, owner -2 is 4294967294, -1 is root. A device that would become 0:0 by the cut is
// refused: on overlay it would be a whiteout. A file's access time is never before its modification time. Attributes of overlayfs itself are left out where
// they would act on other layers, and everywhere those that say how a file system stores a file, such
// as btrfs.compression. [Result] counts what is left out.
//
// # Memory
//
// Memory is bounded by 4 MiB for the stream, 4 MiB for the log, 1 MiB for each extension header, 8 MiB
// for names and attributes of hard links that wait, and 16 bytes for each segment of the sparse file
// that is being read, of which it may have 1,048,576. What the sink keeps comes to that.
package unpack
