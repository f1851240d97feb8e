package layertar

import "strata/backend"

// Options say how Apply unpacks a tar.
type Options struct {
	// Whiteouts is how deletions are stored in the directory.
	Whiteouts backend.Whiteouts
	// IDMap maps the tar's owners to those on disk. nil changes nothing.
	IDMap *backend.IDMap
	// Log records what Replay needs to give the tar back byte for byte. nil records nothing. Apply
	// completes the log but leaves Sync and Close, or after an error Abort, to the caller.
	Log *LogWriter
	// Durable makes everything that was unpacked durable before Apply returns: see the package comment.
	Durable bool
	// Workers is how many files are written at a time. 0 takes the default.
	Workers int
}

// Result describes a tar that was applied.
type Result struct {
	Size    int64  // sum of the sizes of the regular files, bytes, holes included
	Bytes   int64  // length of the whole stream, bytes
	Digest  string // "sha256:" and 64 hex digits, over the whole stream
	Entries int    // entries, extension headers not counted
}

// WriteOptions say how WriteChanges makes a tar.
type WriteOptions struct {
	// IDMap maps the owners on disk to those in the tar. nil changes nothing.
	IDMap *backend.IDMap
	// Vanished says that the tree is in use: files that are gone are left out, and files that shrink
	// while they are read are filled up with zeros. Otherwise both are errors.
	Vanished bool
}

// Limits on what a tar may make us keep in memory.
const (
	// maxSpecial bounds an extension header (PAX records, GNU long name) and a sparse map, bytes.
	// archive/tar has the same limit.
	maxSpecial = 1 << 20
	// maxSegments bounds the data segments of one sparse file.
	maxSegments = 1 << 16
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
