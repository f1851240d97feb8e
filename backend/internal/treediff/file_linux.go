package treediff

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"strata/backend"
	"strata/backend/internal/tree"
)

func vanished(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) }

// File is a name in an open directory with its attributes.
type File struct {
	Dir  tree.Dir
	Name string
	Stat unix.Stat_t
}

// Lstat returns nil if there is no such name.
func Lstat(d tree.Dir, name string) (*File, error) {
	f := File{Dir: d, Name: name}
	err := unix.Fstatat(d.FD, name, &f.Stat, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil //nolint:nilnil // no file is the answer
	}
	if err != nil {
		return nil, &os.PathError{Op: "stat", Path: filepath.Join(d.Path, name), Err: err}
	}
	return &f, nil
}

// Kind returns the type bits of the mode.
func (f *File) Kind() uint32 { return f.Stat.Mode & unix.S_IFMT }

// IsDir reports whether it is a directory.
func (f *File) IsDir() bool { return f.Kind() == unix.S_IFDIR }

// Path is for messages: names on the way may have changed since the directory was opened.
func (f *File) Path() string { return filepath.Join(f.Dir.Path, f.Name) }

// Differ compares two files in all but what directories hold, by the rules of this package. The maps
// tell how owners are stored. A file that vanishes meanwhile is compared as far as it was seen.
func Differ(u *File, uIDs *backend.IDMap, l *File, lIDs *backend.IDMap) (bool, error) {
	a, b := &u.Stat, &l.Stat
	if a.Mode != b.Mode || a.Rdev != b.Rdev || ownersDiffer(a, uIDs, b, lIDs) {
		return true, nil
	}
	if !u.IsDir() && (a.Size != b.Size || !sameTime(a.Mtim, b.Mtim)) {
		return true, nil
	}
	if u.Kind() == unix.S_IFREG && inOneTick(a, b) {
		if differs, err := contentDiffers(u, l); differs || err != nil {
			return differs, err
		}
	}
	if u.Kind() == unix.S_IFLNK {
		if differs, err := targetsDiffer(u, l); differs || err != nil {
			return differs, err
		}
	}
	return attributesDiffer(u, l)
}

func ownersDiffer(a *unix.Stat_t, aIDs *backend.IDMap, b *unix.Stat_t, bIDs *backend.IDMap) bool {
	if aIDs.Equal(bIDs) {
		return a.Uid != b.Uid || a.Gid != b.Gid
	}
	uid, gid, err := aIDs.ToContainer(a.Uid, a.Gid)
	lowerUID, lowerGID, lowerErr := bIDs.ToContainer(b.Uid, b.Gid)
	return err != nil || lowerErr != nil || uid != lowerUID || gid != lowerGID
}

func sameTime(a, b unix.Timespec) bool {
	return a.Sec == b.Sec && (a.Nsec == b.Nsec || a.Nsec == 0 || b.Nsec == 0)
}

// tick is longer than the kernel's clock for times of files stands still: a jiffy, 10 ms with CONFIG_HZ=100.
const tick = 20 * time.Millisecond

// inOneTick tells that a file may have been written to when the clock still showed the time at which the other had been: then they
// are different inodes, and the upper one has not changed since.
func inOneTick(a, b *unix.Stat_t) bool {
	if a.Dev == b.Dev && a.Ino == b.Ino {
		return false
	}
	since := time.Unix(a.Ctim.Unix()).Sub(time.Unix(a.Mtim.Unix()))
	return since.Abs() < tick
}

// contentDiffers reads two files of the same size.
func contentDiffers(u, l *File) (bool, error) {
	a, err := u.open()
	if err != nil {
		return false, ignoreVanished(err)
	}
	defer a.Close()
	b, err := l.open()
	if err != nil {
		return false, ignoreVanished(err)
	}
	defer b.Close()
	const piece = 64 << 10
	x, y := make([]byte, piece), make([]byte, piece)
	for {
		n, err := io.ReadFull(a, x)
		m, errLower := io.ReadFull(b, y)
		if n != m || !bytes.Equal(x[:n], y[:m]) {
			return true, nil
		}
		for _, err := range []error{err, errLower} {
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return false, err
			}
		}
		if n < piece {
			return false, nil
		}
	}
}

func (f *File) open() (*os.File, error) {
	fd, err := unix.Openat(f.Dir.FD, f.Name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: f.Path(), Err: err}
	}
	return os.NewFile(uintptr(fd), f.Path()), nil
}

func targetsDiffer(u, l *File) (bool, error) {
	a, err := u.Dir.Readlink(u.Name, u.Stat.Size)
	if err != nil {
		return false, ignoreVanished(err)
	}
	b, err := l.Dir.Readlink(l.Name, l.Stat.Size)
	if err != nil {
		return false, ignoreVanished(err)
	}
	return a != b, nil
}

// ignoreVanished turns the error of a file that is gone since the listing into nil: it is compared as
// far as it was seen.
func ignoreVanished(err error) error {
	if vanished(err) {
		return nil
	}
	return err
}
