package layertar

import "strata/backend"

// Options say how Apply unpacks a tar.
type Options struct {
	// Whiteouts is how deletions are stored in the directory.
	Whiteouts backend.Whiteouts
	// Marks is what marks act where the layer is mounted, if Whiteouts does not say so: what would be one is kept out.
	Marks backend.Whiteouts
	// Below opens the view of what the layers below show, for the dialects of overlay. It is called when that is first
	// asked for. nil says that it is not known yet; Settle is to be called once it is.
	Below func() (backend.Below, error)
	// IDMap maps the tar's owners to those on disk. nil changes nothing.
	IDMap *backend.IDMap
	// Log records what Replay needs to give the tar back byte for byte. nil records nothing. Apply
	// completes the log but leaves Sync and Close, or after an error Abort, to the caller.
	Log *LogWriter
	// Durable makes everything that was unpacked durable before Apply returns: see the package comment.
	Durable bool
	// AllowEmpty takes a stream of no bytes for a layer without entries. Otherwise it is io.ErrUnexpectedEOF.
	AllowEmpty bool
	// Workers is how many files are written at a time. 0 takes the default.
	Workers int
}

// Result describes a tar that was applied.
type Result struct {
	Size    int64  // sum of the sizes of the regular files, bytes, holes included
	Bytes   int64  // length of the whole stream, bytes
	Digest  string // "sha256:" and 64 hex digits, over the whole stream
	Entries int    // entries, extension headers not counted
	// LeftOut are extended attributes that files of the layer do not have: Linux or the file system knows none of that name for
	// a file of that kind, or they would act on other layers.
	LeftOut Note
	// Devices0 are character devices 0:0. Where overlayfs mounts the layer they are deletions, elsewhere devices.
	Devices0 Note
}

// Note is something that whoever keeps a log may want to write down.
type Note struct {
	Count int
	First string // one of them, for people; the first, or nearly so
}

// WriteOptions say how WriteChanges makes a tar.
type WriteOptions struct {
	// IDMap maps the owners on disk to those in the tar. nil changes nothing.
	IDMap *backend.IDMap
	// Marks is what marks the directory has of how layers are merged: they stay out of the tar.
	Marks backend.Whiteouts
	// Vanished says that the tree is in use: files that are gone are left out, and files that shrink
	// while they are read are filled up with zeros. Otherwise both are errors.
	Vanished bool
}

// Limits on what a tar may make us keep in memory.
const (
	// maxSpecial bounds an extension header, but for a sparse map in it, bytes. archive/tar has the same limit.
	maxSpecial = 1 << 20
	// maxSegments bounds the data segments of one sparse file: 16 MiB of memory, and as many as a file of 8 GiB can have in which
	// every other block of 4 KiB is a hole.
	maxSegments = 1 << 20
	// maxPAX bounds a PAX header, bytes: its records, and a sparse map of 0.0, of which a segment takes up to 84 bytes.
	maxPAX = maxSpecial + 84*maxSegments
	// paxPiece is how much of a PAX header is read at a time, bytes: whole blocks.
	paxPiece = 64 << 10
)

// modeBits are the permission bits, with setuid, setgid and sticky.
const modeBits = 0o7777

// segment is a stretch of data in a file.
type segment struct{ offset, length int64 }

// stamp is a point in time: seconds since 1970 and 0 to 999999999 nanoseconds.
type stamp struct {
	sec  int64
	nsec int64
}

func (s stamp) before(o stamp) bool {
	return s.sec < o.sec || s.sec == o.sec && s.nsec < o.nsec
}

// xattr is an extended attribute.
type xattr struct{ name, value string }

// entry is one member of a tar with its extension headers worked in. Names are as in the tar.
type entry struct {
	name     string
	link     string
	kind     byte // one of the kind constants
	mode     uint32
	uid, gid int64
	size     int64 // of the file once unpacked, holes included
	segments []segment
	sparse   bool // segments describe the data; otherwise it is all of size
	mtime    stamp
	atime    stamp
	major    int64
	minor    int64
	xattrs   []xattr
}

// Kinds of entries: the type flags of POSIX.
const (
	kindFile    = '0'
	kindLink    = '1'
	kindSymlink = '2'
	kindChar    = '3'
	kindBlock   = '4'
	kindDir     = '5'
	kindFifo    = '6'
)
