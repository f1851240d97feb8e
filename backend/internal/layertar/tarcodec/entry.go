package tarcodec

import "strata/backend"

// Limits on what a tar may make us keep in memory.
const (
	// MaxSpecial bounds an extension header, but for a sparse map in it, bytes. archive/tar has the same limit.
	MaxSpecial = 1 << 20
	// maxSegments bounds the data segments of one sparse file: 16 MiB of memory, and as many as a file of 8 GiB can have in which
	// every other block of 4 KiB is a hole.
	maxSegments = 1 << 20
	// maxPAX bounds a PAX header, bytes: its records, and a sparse map of 0.0, of which a segment takes up to 84 bytes.
	maxPAX = MaxSpecial + 84*maxSegments
	// paxPiece is how much of a PAX header is read at a time, bytes: whole blocks.
	paxPiece = 64 << 10
)

// ModeBits are the permission bits, with setuid, setgid and sticky.
const ModeBits = 0o7777

// Segment is a stretch of data in a file.
type Segment struct{ Offset, Length int64 }

// Stamp is a point in time: seconds since 1970 and 0 to 999999999 nanoseconds.
type Stamp struct {
	Sec  int64
	Nsec int64
}

// Before reports whether s is earlier than o.
func (s Stamp) Before(o Stamp) bool {
	return s.Sec < o.Sec || s.Sec == o.Sec && s.Nsec < o.Nsec
}

// Xattr is an extended attribute.
type Xattr = backend.Xattr

// Entry is one member of a tar with its extension headers worked in. Names are as in the tar.
type Entry struct {
	Name     string
	Link     string
	Kind     byte // one of the kind constants
	Mode     uint32
	UID, GID int64
	Size     int64 // of the file once unpacked, holes included
	Segments []Segment
	Sparse   bool // segments describe the data; otherwise it is all of size
	Mtime    Stamp
	Atime    Stamp
	Major    int64
	Minor    int64
	Xattrs   []Xattr
}

// Kinds of entries: the type flags of POSIX.
const (
	KindFile    = '0'
	KindLink    = '1'
	KindSymlink = '2'
	KindChar    = '3'
	KindBlock   = '4'
	KindDir     = '5'
	KindFifo    = '6'
)
