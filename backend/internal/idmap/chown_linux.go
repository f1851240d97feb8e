package idmap

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"strata/backend"
	"strata/backend/internal/dirfd"
)

// Chown changes the owners of everything at and below dir from how the map from stores them to how
// the map to does: files, the IDs in access control lists, and the root IDs of file capabilities.
// Set-ID bits, capabilities and the times of directories stay. Symbolic links are not followed and
// mounts not entered. Nobody else may change the tree meanwhile.
//
// An owner that one of the maps does not know is an error of class ErrInvalidArgument. One
// exception: 0:0 that from does not know is the container's root, because that is what a layer
// looks like which somebody made without any map.
//
// A Chown that was cut off cannot be repeated: some owners are the old ones, some the new.
func Chown(ctx context.Context, dir string, from, to *backend.IDMap) error {
	if from.Equal(to) {
		return nil
	}
	root, err := dirfd.Open(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	w := &walker{root: root, Walk: dirfd.NewWalk(root, dirfd.ByName), from: from, to: to, links: map[dirfd.Inode]link{}}
	defer w.Close()
	if err := w.directory(); err != nil {
		return err
	}
	return w.all(ctx)
}

// link is what the first of several names of a file was given.
type link struct {
	in       *dirfd.Place
	name     string
	uid, gid uint32
}

// walker goes by name: a union mount lists in another order once something was copied up.
type walker struct {
	*dirfd.Walk
	root     dirfd.Dir
	from, to *backend.IDMap
	links    map[dirfd.Inode]link
}

func (w *walker) all(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("change owners in %s: %w", w.Dir(), err)
		}
		e, ok, err := w.Next()
		switch {
		case err != nil:
			return fmt.Errorf("change owners: %w", err)
		case ok:
			err = w.entry(e.Name)
		case w.Depth() == 0:
			return nil
		default:
			err = w.Leave()
		}
		if err != nil {
			return err
		}
	}
}

func (w *walker) entry(name string) error {
	d := w.Dir()
	st, err := d.File(name).Stat()
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return w.file(d, name, &st)
	}
	err = w.Enter(name)
	if dirfd.IsMountPoint(err) {
		return nil // something else is mounted here
	}
	if err != nil {
		return err
	}
	return w.directory()
}

// directory changes the directory where the walk is.
func (w *walker) directory() error {
	d := w.Dir()
	st, err := d.Self().Stat()
	if err != nil {
		return err
	}
	return w.change(d, ".", &st)
}

// file changes a file that is no directory, each inode once.
func (w *walker) file(d dirfd.Dir, name string, st *unix.Stat_t) error {
	if st.Nlink < 2 {
		return w.change(d, name, st)
	}
	id := dirfd.InodeOf(st)
	first, seen := w.links[id]
	if !seen {
		uid, gid, err := w.translate(st.Uid, st.Gid)
		if err != nil {
			return fmt.Errorf("change owner of %s: %w", d.Join(name), err)
		}
		w.links[id] = link{w.Place(), name, uid, gid}
		return w.change(d, name, st)
	}
	if st.Uid == first.uid && st.Gid == first.gid {
		return nil
	}
	return w.relink(d, name, first)
}

// relink makes name one file with its first name again: a union mount copies a file up under the
// one name that was changed and leaves the others behind.
func (w *walker) relink(d dirfd.Dir, name string, first link) error {
	before, err := d.Self().Stat()
	if err != nil {
		return err
	}
	in, err := w.root.OpenPlace(first.in)
	if err != nil {
		return err
	}
	defer in.Close()
	const temporary = ".strata-relink" // if it exists, the tree is not ours alone: an error
	if err := unix.Linkat(in.FD, first.name, d.FD, temporary, 0); err != nil {
		return &os.LinkError{Op: "link", Old: in.Join(first.name), New: d.Join(name), Err: err}
	}
	if err := unix.Renameat(d.FD, temporary, d.FD, name); err != nil {
		return &os.LinkError{Op: "rename", Old: temporary, New: d.Join(name), Err: err}
	}
	return d.Self().SetTimes([2]unix.Timespec{before.Atim, before.Mtim})
}

// change gives name in d its new owner.
func (w *walker) change(d dirfd.Dir, name string, st *unix.Stat_t) error {
	uid, gid, err := w.translate(st.Uid, st.Gid)
	if err != nil {
		return fmt.Errorf("change owner of %s: %w", d.Join(name), err)
	}
	f := d.File(name)
	attrs, err := w.attributes(f)
	if err != nil {
		return fmt.Errorf("change owner of %s: %w", d.Join(name), err)
	}
	e := dirfd.Entry{Name: name, Type: uint8(st.Mode & unix.S_IFMT >> 12)} // IFTODT of dirent.h
	return dirfd.Protected(d, e, func() error {
		if uid != st.Uid || gid != st.Gid {
			if err := chown(f, uid, gid, st.Mode); err != nil {
				return err
			}
		}
		for _, x := range attrs {
			if err := f.SetXattr(x.Name, x.Value); err != nil {
				return err
			}
		}
		return nil
	})
}

// chown keeps the mode, too.
func chown(f dirfd.File, uid, gid, mode uint32) error {
	if err := f.Chown(uid, gid); err != nil {
		return err
	}
	const setID = unix.S_ISUID | unix.S_ISGID
	if mode&unix.S_IFMT == unix.S_IFLNK || mode&setID == 0 {
		return nil
	}
	return f.Chmod(mode) // chown(2) has cleared them
}

func (w *walker) translate(uid, gid uint32) (uint32, uint32, error) {
	u, g, err := w.from.ToContainer(uid, gid)
	if err != nil {
		if uid != 0 || gid != 0 {
			return 0, 0, err
		}
		u, g = 0, 0
	}
	return w.to.ToHost(u, g)
}

func (w *walker) translateUser(uid uint32) (uint32, error) {
	_, group, err := w.from.Root()
	if err != nil {
		return 0, err
	}
	if uid == 0 {
		group = 0 // 0:0 has a rule of its own
	}
	u, _, err := w.translate(uid, group)
	return u, err
}

func (w *walker) translateGroup(gid uint32) (uint32, error) {
	user, _, err := w.from.Root()
	if err != nil {
		return 0, err
	}
	if gid == 0 {
		user = 0
	}
	_, g, err := w.translate(user, gid)
	return g, err
}

// attributes returns those attributes of a file that hold IDs or that chown(2) clears, with their
// new values.
func (w *walker) attributes(f dirfd.File) ([]dirfd.Xattr, error) {
	list, err := f.Xattrs(func(name string) bool { return w.rewriter(name) != nil })
	if err != nil {
		return nil, err
	}
	for _, x := range list {
		if err := w.rewriter(x.Name)(x.Value); err != nil {
			return nil, fmt.Errorf("attribute %s: %w", x.Name, err)
		}
	}
	return list, nil
}
