package dirfd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// listBuffer is the size of the buffer for getdents64(2), bytes: about 2000 names a call, which is
// as many as ext4 and xfs find in a few directory blocks.
const listBuffer = 64 << 10

// Entry is one name in a directory.
type Entry struct {
	Name string
	Ino  uint64 // d_ino, which on some overlay mounts is not st_ino
	Off  int64  // d_off, where the listing goes on after it
	Type uint8  // unix.DT_DIR, DT_REG, ...; DT_UNKNOWN where the file system does not tell
}

// Dir is an open directory. It may be used concurrently, except for reading entries.
type Dir struct {
	FD   int
	Path string // that it was opened by, "" for one of a Trail

	trail *Trail // that it is on, or nil
	end   int    // how much of the trail leads to it
}

// shownPath is how much of a path a message shows, bytes: the path of a directory of a Trail may have megabytes.
const shownPath = 4096

// String returns the path for messages. It is never to be resolved, and a long one lacks its middle.
func (d Dir) String() string {
	if d.trail == nil {
		return d.Path
	}
	path := d.trail.way[:min(d.end, len(d.trail.way))]
	return filepath.Join(d.trail.root.String(), shorten(path))
}

// shorten leaves out the middle of a path that is too long for a message.
func shorten[T string | []byte](path T) string {
	if len(path) <= shownPath {
		return string(path)
	}
	const half = shownPath / 2
	return string(path[:half]) + "[...]" + string(path[len(path)-half:])
}

// Join returns the path of name in d for messages, like String.
func (d Dir) Join(name string) string { return filepath.Join(d.String(), name) }

// Open opens a directory by path. Symbolic links in the path are followed, unless it is the last element.
func Open(path string) (Dir, error) {
	fd, err := openAt(unix.AT_FDCWD, path, unix.O_DIRECTORY)
	if err != nil {
		return Dir{}, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return Dir{FD: fd, Path: path}, nil
}

// Open opens the directory at a relative path below d, with the errors of OpenBeneath.
func (d Dir) Open(path string) (Dir, error) {
	fd, err := d.OpenBeneath(path, unix.O_DIRECTORY)
	if err != nil {
		return Dir{}, err
	}
	return Dir{FD: fd, Path: shorten(d.Join(path))}, nil
}

// OpenFile opens the regular file called name in d for reading, with the errors of Open. Its access time stays
// as it is where the owner permits.
func (d Dir) OpenFile(name string) (int, error) {
	const flags = unix.O_NONBLOCK // should it have become a FIFO, do not wait for a writer
	fd, err := d.openFD(name, flags|unix.O_NOATIME)
	if errors.Is(err, unix.EPERM) {
		return d.openFD(name, flags)
	}
	return fd, err
}

// Close closes the directory. The error of closing what was only read means nothing.
func (d Dir) Close() { _ = unix.Close(d.FD) }

// Readlink reads the symbolic link called name in d, which is expected to be size bytes long.
func (d Dir) Readlink(name string, size int64) (string, error) {
	for length := max(size, 63) + 1; ; length *= 2 {
		buf := make([]byte, length)
		n, err := unix.Readlinkat(d.FD, name, buf)
		if err != nil {
			return "", &os.PathError{Op: "readlink", Path: d.Join(name), Err: err}
		}
		if int64(n) < length {
			return string(buf[:n]), nil
		}
	}
}

// Entries reads the whole directory, sorted by name in byte order.
func (d Dir) Entries() ([]Entry, error) {
	return d.sorted(make([]byte, listBuffer), nil)
}

// sorted reads what is left of the listing into list[:0].
func (d Dir) sorted(buf []byte, list []Entry) ([]Entry, error) {
	list = list[:0]
	for {
		before := len(list)
		var err error
		if list, err = d.more(buf, list); err != nil {
			return nil, err
		}
		if len(list) == before {
			break
		}
	}
	slices.SortFunc(list, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// next appends the next entries to list[:0]; none at the end of the directory.
func (d Dir) next(buf []byte, list []Entry) ([]Entry, error) { return d.more(buf, list[:0]) }

// more appends the next entries to list; none at the end of the directory.
func (d Dir) more(buf []byte, list []Entry) ([]Entry, error) {
	before := len(list)
	for len(list) == before { // a buffer may hold nothing but . and ..
		n, err := retryFD(func() (int, error) { return unix.Getdents(d.FD, buf) })
		if errors.Is(err, unix.ENOENT) { // removed while open
			return list, nil
		}
		if err != nil {
			return nil, &os.PathError{Op: "list", Path: d.String(), Err: err}
		}
		if n == 0 {
			return list, nil
		}
		list = parseEntries(buf[:n], list)
	}
	return list, nil
}

// Offsets in struct linux_dirent64 (include/linux/dirent.h): d_ino, d_off, d_reclen, d_type, d_name.
const (
	direntOffset = 8
	direntLength = 16
	direntType   = 18
	direntName   = 19
)

func parseEntries(buf []byte, list []Entry) []Entry {
	for len(buf) >= direntName {
		length := int(binary.NativeEndian.Uint16(buf[direntLength:]))
		if length < direntName || length > len(buf) {
			return list // not from a kernel
		}
		name := buf[direntName:length]
		if end := bytes.IndexByte(name, 0); end >= 0 {
			name = name[:end]
		}
		if s := string(name); s != "." && s != ".." {
			list = append(list, Entry{
				Name: s,
				Ino:  binary.NativeEndian.Uint64(buf),
				Off:  int64(binary.NativeEndian.Uint64(buf[direntOffset:])),
				Type: buf[direntType],
			})
		}
		buf = buf[length:]
	}
	return list
}
