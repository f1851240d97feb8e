package layertar

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
