package dirsink

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strata/backend/internal/dirfd"
	"strata/backend/internal/layertar/openat"
	"strata/backend/internal/layertar/tarcodec"
)

// merging is a walk that moves all that a directory holds to another one.
type merging struct {
	*settler
	from  *dirfd.Walk
	root  string // the path of the directory where it began
	to    *dirfd.Trail
	times [][2]unix.Timespec // of the directories of to that have become one with those of from, from the root to where the walk is
}

// moveAll moves all that a directory holds to another one, and returns the names of directories among that.
func (s *settler) moveAll(from dirfd.Dir, to *dir, path string) (dirs []string, err error) {
	m := &merging{settler: s, from: dirfd.NewWalk(from, dirfd.ByName), root: path, to: dirfd.NewTrail(dirfd.Dir{FD: to.fd, Path: to.path})}
	defer m.to.Close()
	defer m.from.Close()
	for {
		e, ok, err := m.from.Next()
		top := m.from.Depth() == 0
		dir := false
		switch {
		case err != nil:
			return nil, err
		case ok:
			dir, err = m.name(e.Name)
		case top:
			return dirs, nil
		default:
			err = m.leave()
		}
		if err != nil {
			return nil, err
		}
		if top && dir {
			dirs = append(dirs, e.Name)
		}
	}
}

// path is the canonical path of the directory where the walk is.
func (m *merging) path() string {
	if m.from.Depth() == 0 {
		return m.root
	}
	return tarcodec.JoinName(m.root, m.from.Path())
}

// name moves one name. Where both directories have it, a whiteout gives way to what the tar put there, and two directories
// become one. It reports whether there is a directory now.
func (m *merging) name(name string) (dir bool, err error) {
	from, to := m.from.Dir().FD, m.to.Dir().FD
	var moved, there unix.Stat_t
	if err := unix.Fstatat(from, name, &moved, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, err
	}
	dir = moved.Mode&unix.S_IFMT == unix.S_IFDIR
	err = unix.Fstatat(to, name, &there, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT):
		return dir, unix.Renameat(from, name, to, name)
	case err != nil:
		return false, err
	case m.tree.view.whiteout(&moved):
		if there.Mode&unix.S_IFMT == unix.S_IFDIR {
			err = m.coverAt(to, name)
		}
		return false, errors.Join(err, unix.Unlinkat(from, name, 0))
	case m.tree.view.whiteout(&there):
		if dir {
			err = m.coverAt(from, name)
		}
		err = errors.Join(err, unix.Unlinkat(to, name, 0))
		return dir, errors.Join(err, unix.Renameat(from, name, to, name))
	case dir && there.Mode&unix.S_IFMT == unix.S_IFDIR:
		return true, m.enter(name)
	}
	return false, errTwice(tarcodec.JoinName(m.path(), name))
}

// enter goes into two directories of one name, which become one.
func (m *merging) enter(name string) error {
	if err := errors.Join(m.from.Enter(name), m.to.Enter(name)); err != nil {
		return err
	}
	src, dst := m.from.Dir().FD, m.to.Dir().FD
	opaque, err := hasMark(src, m.tree.view.opaque)
	if err == nil && opaque {
		err = (&dir{path: tarcodec.JoinName(m.root, m.from.Path()), fd: dst}).mark(m.tree.view.opaque)
	}
	if err != nil {
		return err
	}
	if err := m.mergeAttrs(src, dst); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(dst, &st); err != nil {
		return err
	}
	m.times = append(m.times, [2]unix.Timespec{st.Atim, st.Mtim})
	return nil
}

// leave goes back to the directories above, after all has been moved.
func (m *merging) leave() error {
	last := len(m.times) - 1
	if err := unix.UtimesNanoAt(m.to.Dir().FD, ".", m.times[last][:], 0); err != nil {
		return err
	}
	m.times = m.times[:last]
	_, name := tarcodec.SplitName(m.path())
	if err := errors.Join(m.from.Leave(), m.to.Leave()); err != nil {
		return err
	}
	return unix.Unlinkat(m.from.Dir().FD, name, unix.AT_REMOVEDIR)
}

// mergeAttrs gives dst the properties of src if the tar describes that one.
func (m *merging) mergeAttrs(src, dst int) error {
	waits, err := hasMark(src, m.tree.view.implied())
	if waits || err != nil {
		return err
	}
	if waits, err = hasMark(dst, m.tree.view.implied()); err != nil {
		return err
	}
	if !waits {
		return errTwice(m.path())
	}
	var st unix.Stat_t
	if err := unix.Fstat(src, &st); err != nil {
		return err
	}
	at := attrs{mode: st.Mode & tarcodec.ModeBits, uid: st.Uid, gid: st.Gid, times: [2]unix.Timespec{st.Atim, st.Mtim}}
	if at.xattrs, err = openat.ReadXattrs(openat.File{FD: src}, m.o.Marks); err != nil {
		return err
	}
	return m.dressAs(dst, &at)
}

func errTwice(path string) error {
	return fmt.Errorf("%q is in the tar under two names that are one with the layers below, and which came last is not known: unpack it after its parent: %w",
		path, errdefs.ErrInvalidArgument)
}

// coverAt makes a directory opaque. If the tar only implied it, there is nothing left that it should look like.
func (s *settler) coverAt(at int, name string) error {
	fd, err := openat.OpenDirAt(at, name)
	if err != nil {
		return err
	}
	defer openat.CloseQuietly(fd, -1)
	if err := (&dir{path: name, fd: fd}).mark(s.tree.view.opaque); err != nil {
		return err
	}
	return dropMark(fd, s.tree.view.implied())
}
