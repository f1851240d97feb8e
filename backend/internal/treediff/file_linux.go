package treediff

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"strata/backend"
	"strata/backend/internal/dirfd"
)

// File is a name in an open directory with its attributes.
type File struct {
	Dir  dirfd.Dir
	Name string
	Stat unix.Stat_t
	// Marks is how the overlayfs that mounts the tree marks files: that is no content. None for a tree that is seen mounted.
	Marks backend.Whiteouts
}

// Lstat returns nil if there is no such name.
func Lstat(d dirfd.Dir, name string) (*File, error) {
	f := &File{Dir: d, Name: name}
	err := unix.Fstatat(d.FD, name, &f.Stat, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) { // asked for every name of every layer: without an error that has a path
		return nil, nil //nolint:nilnil // no file is the answer
	}
	if err != nil {
		return nil, &os.PathError{Op: "stat", Path: f.Path(), Err: err}
	}
	return f, nil
}

// Kind returns the type bits of the mode.
func (f *File) Kind() uint32 { return f.Stat.Mode & unix.S_IFMT }

// IsDir reports whether it is a directory.
func (f *File) IsDir() bool { return f.Kind() == unix.S_IFDIR }

// Path is for messages: names on the way may have changed since the directory was opened.
func (f *File) Path() string { return f.Dir.Join(f.Name) }

// Differ compares two files in all but what directories hold and which names are hard links, by the rules of this package. The maps
// tell how owners are stored. A file that vanishes meanwhile is compared as far as it was seen.
func Differ(u *File, uIDs *backend.IDMap, l *File, lIDs *backend.IDMap) (bool, error) {
	return differ(u, uIDs, l, lIDs, false)
}

// differ compares what is cheap first. oneDisk is that of Options.
func differ(u *File, uIDs *backend.IDMap, l *File, lIDs *backend.IDMap, oneDisk bool) (bool, error) {
	a, b := &u.Stat, &l.Stat
	if a.Mode != b.Mode || a.Rdev != b.Rdev || a.Mtim != b.Mtim || ownersDiffer(a, uIDs, b, lIDs) {
		return true, nil
	}
	if !u.IsDir() && a.Size != b.Size {
		return true, nil
	}
	if differs, err := attributesDiffer(u, l); differs || err != nil {
		return differs, err
	}
	switch u.Kind() {
	case unix.S_IFLNK:
		return targetsDiffer(u, l)
	case unix.S_IFREG:
		return contentDiffers(u, l, oneDisk)
	}
	return false, nil
}

func ownersDiffer(a *unix.Stat_t, aIDs *backend.IDMap, b *unix.Stat_t, bIDs *backend.IDMap) bool {
	if aIDs.Equal(bIDs) {
		return a.Uid != b.Uid || a.Gid != b.Gid
	}
	uid, gid, err := aIDs.ToContainer(a.Uid, a.Gid)
	lowerUID, lowerGID, lowerErr := bIDs.ToContainer(b.Uid, b.Gid)
	return err != nil || lowerErr != nil || uid != lowerUID || gid != lowerGID
}

func targetsDiffer(u, l *File) (bool, error) {
	a, err := u.Dir.Readlink(u.Name, u.Stat.Size)
	if err != nil {
		return false, dirfd.IgnoreVanished(err)
	}
	b, err := l.Dir.Readlink(l.Name, l.Stat.Size)
	if err != nil {
		return false, dirfd.IgnoreVanished(err)
	}
	return a != b, nil
}
