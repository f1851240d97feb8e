package changed

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"strata/backend"
	"strata/backend/internal/dirfd"
	"strata/backend/internal/treediff"
	"strata/backend/zfs/device"
)

// A Tree is where a dataset or a snapshot is mounted.
type Tree struct {
	Dir string
	IDs *backend.IDMap // how it stores owners
}

// Search says where changed objects are looked for.
type Search struct {
	Device       *device.Device
	Snapshot     string // of the upper tree
	Upper, Lower Tree
}

// Find looks for objects, which the kernel says have changed up to the snapshot, in the upper tree. passOver tells of an
// inode of that tree that neither it nor, for a directory, anything below it differs from the lower one.
func (s Search) Find(ctx context.Context, objects []uint64) (passOver func(dev, ino uint64) bool, err error) {
	f := finder{
		device: s.Device, snapshot: s.Snapshot, ids: [2]*backend.IDMap{s.Upper.IDs, s.Lower.IDs},
		look: make(map[uint64]bool, 2*len(objects)), above: map[string]bool{}, listed: map[uint64]string{}, dirs: map[string]bool{},
	}
	return f.find(ctx, objects, s.Upper.Dir, s.Lower.Dir)
}

// finder finds the directories in which a comparison has to look.
type finder struct {
	device   *device.Device
	snapshot string            // of the upper tree
	ids      [2]*backend.IDMap // of the upper and the lower tree
	dev      uint64
	upper    dirfd.Dir
	lower    dirfd.Dir
	look     map[uint64]bool // inode numbers of what changed and of the directories above
	above    map[string]bool // directories that are in look with all above them
	// listed has the names of the objects in the directories that were listed. The kernel tells of all objects in a block
	// of 32 of which one changed, most of which lie side by side, and takes as long to find one's path as it takes to
	// list a directory.
	listed map[uint64]string
	dirs   map[string]bool // listed directories
}

// fewObjects is up to how many objects the kernel is asked for the path of each. It searches the directory for that;
// more are found faster by reading the names of all files.
const fewObjects = 4096

func (f *finder) find(ctx context.Context, objects []uint64, upper, lower string) (_ func(dev, ino uint64) bool, err error) {
	if f.upper, err = dirfd.Open(upper); err != nil {
		return nil, err
	}
	defer f.upper.Close()
	if f.lower, err = dirfd.Open(lower); err != nil {
		return nil, err
	}
	defer f.lower.Close()
	var st unix.Stat_t
	if err := unix.Fstat(f.upper.FD, &st); err != nil {
		return nil, fmt.Errorf("stat %s: %w", upper, err)
	}
	f.dev = uint64(st.Dev)
	for _, o := range objects {
		f.look[o] = true
	}
	everywhere := len(objects) > fewObjects
	for i := 0; i < len(objects) && !everywhere; i++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		everywhere, err = f.object(objects[i])
		if errors.Is(err, unix.ENAMETOOLONG) { // no path leads to it
			everywhere, err = true, nil
		}
		if err != nil {
			return nil, err
		}
	}
	if everywhere {
		if _, err := f.names(ctx, f.upper); err != nil {
			return nil, err
		}
	}
	dev, look := f.dev, f.look
	return func(d, ino uint64) bool { return d == dev && !look[ino] }, nil
}

// object adds the directories above an object. everywhere tells that the object changed and may have
// names that only a look at all names finds.
func (f *finder) object(object uint64) (everywhere bool, err error) {
	if name, ok := f.listed[object]; ok {
		st, err := f.lstat(name)
		if err == nil && st.Ino == object {
			return f.file(name, &st)
		}
		if err != nil && !vanished(err) {
			return false, err
		}
	}
	return f.search(object)
}

// search does what object does for one that is in none of the directories that were listed.
func (f *finder) search(object uint64) (everywhere bool, err error) {
	name, err := f.device.Path(f.snapshot, object)
	switch {
	case errors.Is(err, device.ErrNoFile):
		return false, nil
	case errors.Is(err, device.ErrAstray):
		return true, nil
	case err != nil:
		return false, err
	}
	// Attributes that do not fit into the file have objects of their own, which the kernel shows in this way
	// (zfs_znode.c, zfs_obj_to_path_impl). A file can be called so, too.
	owner, _, attribute := strings.Cut(name, "/<xattrdir>")
	st, err := f.lstat(name)
	if attribute && (err != nil || st.Ino != object) {
		name, object = owner, 0
		st, err = f.lstat(name)
	}
	if vanished(err) || err == nil && object != 0 && st.Ino != object {
		return true, nil // renamed since the snapshot, perhaps
	}
	if err != nil {
		return false, err
	}
	if err := f.list(path.Dir(name)); err != nil {
		return false, err
	}
	return f.file(name, &st)
}

// file adds a file of the upper tree and the directories above it. everywhere is that of object.
func (f *finder) file(name string, st *unix.Stat_t) (everywhere bool, err error) {
	f.look[st.Ino] = true
	if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
		differs, err := f.differs(name)
		if differs || err != nil {
			return true, err
		}
	}
	return false, f.addAbove(path.Dir(name))
}

// list notes which objects a directory of the upper tree has.
func (f *finder) list(dir string) error {
	if f.dirs[dir] {
		return nil
	}
	f.dirs[dir] = true
	d, err := f.upper.Open(relative(dir))
	if vanished(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	entries, err := d.Entries()
	if err != nil {
		return err
	}
	for _, e := range entries {
		if f.look[e.Ino] {
			f.listed[e.Ino] = path.Join(dir, e.Name)
		}
	}
	return nil
}

// lstat looks at a file of the upper tree. No symbolic link is followed, and no mount crossed.
func (f *finder) lstat(name string) (unix.Stat_t, error) { return f.upper.Lstat(relative(name)) }

// relative makes of a path from the root of a dataset one that begins there.
func relative(name string) string { return path.Clean("." + path.Clean("/"+name)) }

// vanished tells that a file is not where it was a moment ago.
func vanished(err error) bool { return dirfd.Vanished(err) || dirfd.IsMountPoint(err) }

// differs compares the files at this name in the two trees. One name of a file with several is enough: where a name leads
// to another file, its directory has changed.
func (f *finder) differs(name string) (bool, error) {
	var files [2]*treediff.File
	for i, d := range []dirfd.Dir{f.upper, f.lower} {
		at, err := d.Open(relative(path.Dir(name)))
		if vanished(err) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		defer at.Close()
		if files[i], err = treediff.Lstat(at, path.Base(name)); err != nil {
			return false, err
		}
		if files[i] == nil {
			return true, nil
		}
	}
	return treediff.Differ(files[0], f.ids[0], files[1], f.ids[1])
}

// addAbove adds a directory of the upper tree and all above it.
func (f *finder) addAbove(dir string) error {
	for ; !f.above[dir]; dir = path.Dir(dir) {
		st, err := f.lstat(dir)
		if err != nil && !vanished(err) {
			return err
		}
		if err == nil {
			f.look[st.Ino] = true
		}
		f.above[dir] = true
		if dir == "/" {
			break
		}
	}
	return nil
}

// names reads the names of all files below d, without looking at the files, and adds the directories in which there is
// something to look at. It tells whether there is.
func (f *finder) names(ctx context.Context, d dirfd.Dir) (found bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	entries, err := d.Entries()
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		inside := false
		if e.Type == unix.DT_DIR {
			if inside, err = f.inside(ctx, d, e.Name); err != nil {
				return false, err
			}
		}
		if inside {
			f.look[e.Ino] = true
		}
		found = found || inside || f.look[e.Ino]
	}
	return found, nil
}

// inside is names for the directory called name in d.
func (f *finder) inside(ctx context.Context, d dirfd.Dir, name string) (bool, error) {
	sub, err := d.Open(name)
	if vanished(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer sub.Close()
	return f.names(ctx, sub)
}
