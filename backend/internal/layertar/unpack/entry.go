package unpack

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"strata/backend"
	"strata/backend/internal/layertar/tarcodec"
)

// Types of files: the values of st_mode on Linux, which backend.Entry has on every system.
const (
	typeFifo    = 0o010000
	typeChar    = 0o020000
	typeDir     = 0o040000
	typeBlock   = 0o060000
	typeFile    = 0o100000
	typeSymlink = 0o120000
)

// fileType returns the bits of st_mode for a kind of entry. A hard link has those of a file.
func fileType(kind byte) uint32 {
	switch kind {
	case tarcodec.KindDir:
		return typeDir
	case tarcodec.KindSymlink:
		return typeSymlink
	case tarcodec.KindChar:
		return typeChar
	case tarcodec.KindBlock:
		return typeBlock
	case tarcodec.KindFifo:
		return typeFifo
	}
	return typeFile
}

// Linux has 12 bits for a device's major number and 20 for the minor (include/linux/kdev_t.h).
const (
	majorBits = 1<<12 - 1
	minorBits = 1<<20 - 1
)

// device returns a device's numbers, and zeros for other entries, whatever their headers hold. What does not fit is cut off, as in
// Docker, unless that makes a 0:0 of it: on overlay it would delete a file of the layers below.
func device(e *tarcodec.Entry) (major, minor uint32, err error) {
	if e.Kind != tarcodec.KindChar && e.Kind != tarcodec.KindBlock {
		return 0, 0, nil
	}
	major, minor = uint32(e.Major)&majorBits, uint32(e.Minor)&minorBits
	if major == 0 && minor == 0 && (e.Major != 0 || e.Minor != 0) {
		return 0, 0, fmt.Errorf("device number %d:%d does not fit in Linux's 12 and 20 bits: %w", e.Major, e.Minor, errdefs.ErrInvalidArgument)
	}
	return major, minor, nil
}

// describe makes p.entry the description of e.
func (p *parser) describe(e *tarcodec.Entry, path string) error {
	uid, gid, err := owner(e, p.o.IDMap)
	if err != nil {
		return err
	}
	major, minor, err := device(e)
	if err != nil {
		return err
	}
	atime := e.Atime
	if atime.Before(e.Mtime) { // as Docker: no file was last read before it was last written
		atime = e.Mtime
	}
	p.entry = backend.Entry{
		Name: e.Name, Path: path, Mode: fileType(e.Kind) | e.Mode&tarcodec.ModeBits, UID: uid, GID: gid,
		Atime: time.Unix(atime.Sec, atime.Nsec), Mtime: time.Unix(e.Mtime.Sec, e.Mtime.Nsec), Target: e.Link,
		Major: major, Minor: minor, Size: e.Size,
	}
	p.entry.Xattrs = slices.DeleteFunc(e.Xattrs, func(x tarcodec.Xattr) bool {
		foreign := tarcodec.ForeignXattr(x.Name, p.o.Marks)
		if foreign != nil {
			p.LeaveOut(x.Name, e.Name, foreign)
		}
		return foreign != nil
	})
	return checkXattrs(p.entry.Xattrs)
}

// maxXattrNames is the largest list of names that Linux has, bytes (XATTR_LIST_MAX).
const maxXattrNames = 64 << 10

// checkXattrs refuses more attributes than Linux lists: some file systems keep them, and then nobody
// can copy or compare the file.
func checkXattrs(list []backend.Xattr) error {
	names := 0
	for _, x := range list {
		names += len(x.Name) + 1
	}
	if names > maxXattrNames {
		return fmt.Errorf("%d extended attributes, whose names take %d bytes, of which Linux lists %d: %w",
			len(list), names, maxXattrNames, errdefs.ErrInvalidArgument)
	}
	return nil
}

// keepOwner is the ID that chown(2) takes for "leave it as it is".
const keepOwner = math.MaxUint32

// owner returns an entry's owner as the layer stores it. Negative IDs are those that chown(2) takes
// them for, as in Docker: -2 is the highest ID, and -1, which leaves alone what root has just made, is
// root.
func owner(e *tarcodec.Entry, m *backend.IDMap) (uid, gid uint32, err error) {
	for _, id := range []int64{e.UID, e.GID} {
		if id < math.MinInt32 || id > math.MaxUint32 {
			return 0, 0, fmt.Errorf("owner %d:%d does not fit in 32 bits: %w", e.UID, e.GID, errdefs.ErrInvalidArgument)
		}
	}
	if uid, gid, err = m.ToHost(uint32(e.UID), uint32(e.GID)); err != nil {
		return 0, 0, err
	}
	if uid == keepOwner {
		uid = 0
	}
	if gid == keepOwner {
		gid = 0
	}
	return uid, gid, nil
}
