package idmap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"syscall"

	"golang.org/x/sys/unix"

	"strata/backend"
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
	root, err := openDir(unix.AT_FDCWD, dir, dir)
	if err != nil {
		return err
	}
	defer root.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &st); err != nil {
		return &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	w := &walker{root: root, from: from, to: to, links: map[inode]link{}}
	if err := w.change(root, ".", ".", &st); err != nil {
		return err
	}
	return w.dir(ctx, root, ".")
}

type inode struct{ dev, ino uint64 }

// link is what the first of several names of a file was given.
type link struct {
	name     string // relative to the root
	uid, gid uint32
}

type walker struct {
	root     *os.File
	from, to *backend.IDMap
	links    map[inode]link
}

// namesAtOnce bounds the memory for a huge directory.
const namesAtOnce = 1024

// dir changes what d holds. rel is its path below the root.
func (w *walker) dir(ctx context.Context, d *os.File, rel string) error {
	names, err := d.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("change owners in %s: %w", rel, err)
	}
	for i, name := range names {
		if i%namesAtOnce == 0 && ctx.Err() != nil {
			return fmt.Errorf("change owners in %s: %w", rel, ctx.Err())
		}
		if err := w.entry(ctx, d, name, path.Join(rel, name)); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) entry(ctx context.Context, d *os.File, name, rel string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(int(d.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "stat", Path: rel, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return w.file(d, name, rel, &st)
	}
	sub, err := openDir(int(d.Fd()), name, rel)
	if errors.Is(err, unix.EXDEV) {
		return nil // something else is mounted here
	}
	if err != nil {
		return err
	}
	defer sub.Close()
	if err := w.change(d, name, rel, &st); err != nil {
		return err
	}
	return w.dir(ctx, sub, rel)
}

// file changes a file that is no directory, each inode once.
func (w *walker) file(d *os.File, name, rel string, st *unix.Stat_t) error {
	if st.Nlink < 2 {
		return w.change(d, name, rel, st)
	}
	id := inode{st.Dev, st.Ino}
	first, seen := w.links[id]
	if !seen {
		uid, gid, err := w.translate(st.Uid, st.Gid)
		if err != nil {
			return fmt.Errorf("change owner of %s: %w", rel, err)
		}
		w.links[id] = link{rel, uid, gid}
		return w.change(d, name, rel, st)
	}
	if st.Uid == first.uid && st.Gid == first.gid {
		return nil
	}
	return w.relink(d, name, rel, first)
}

// relink makes name one file with its first name again: a union mount copies a file up under the
// one name that was changed and leaves the others behind.
func (w *walker) relink(d *os.File, name, rel string, first link) error {
	var before unix.Stat_t
	if err := unix.Fstat(int(d.Fd()), &before); err != nil {
		return &os.PathError{Op: "stat", Path: path.Dir(rel), Err: err}
	}
	const temporary = ".strata-relink" // if it exists, the tree is not ours alone: an error
	if err := unix.Linkat(int(w.root.Fd()), first.name, int(d.Fd()), temporary, 0); err != nil {
		return &os.LinkError{Op: "link", Old: first.name, New: rel, Err: err}
	}
	if err := unix.Renameat(int(d.Fd()), temporary, int(d.Fd()), name); err != nil {
		return &os.LinkError{Op: "rename", Old: temporary, New: rel, Err: err}
	}
	times := []unix.Timespec{before.Atim, before.Mtim}
	if err := unix.UtimesNanoAt(int(d.Fd()), ".", times, 0); err != nil {
		return &os.PathError{Op: "set times", Path: path.Dir(rel), Err: err}
	}
	return nil
}

// change gives name in d its new owner.
func (w *walker) change(d *os.File, name, rel string, st *unix.Stat_t) error {
	uid, gid, err := w.translate(st.Uid, st.Gid)
	if err != nil {
		return fmt.Errorf("change owner of %s: %w", rel, err)
	}
	// A path through the descriptor: the xattr calls have no *at form before Linux 6.13.
	file := fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), name)
	attrs, err := w.attributes(file)
	if err != nil {
		return fmt.Errorf("change owner of %s: %w", rel, err)
	}
	if uid != st.Uid || gid != st.Gid {
		if err := unix.Fchownat(int(d.Fd()), name, int(uid), int(gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return &os.PathError{Op: "chown", Path: rel, Err: err}
		}
		const setID = unix.S_ISUID | unix.S_ISGID
		if st.Mode&unix.S_IFMT != unix.S_IFLNK && st.Mode&setID != 0 { // chown(2) clears them
			if err := unix.Fchmodat(int(d.Fd()), name, st.Mode&0o7777, 0); err != nil {
				return &os.PathError{Op: "chmod", Path: rel, Err: err}
			}
		}
	}
	for name, value := range attrs {
		if err := unix.Lsetxattr(file, name, value, 0); err != nil {
			return fmt.Errorf("set %s of %s: %w", name, rel, err)
		}
	}
	return nil
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
func (w *walker) attributes(file string) (map[string][]byte, error) {
	names := make([]byte, 1024)
	n, err := unix.Llistxattr(file, names)
	if errors.Is(err, unix.ERANGE) {
		names = make([]byte, 64<<10) // XATTR_LIST_MAX, include/uapi/linux/limits.h
		n, err = unix.Llistxattr(file, names)
	}
	if errors.Is(err, unix.ENOTSUP) {
		n, err = 0, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list attributes: %w", err)
	}
	changed := map[string][]byte{}
	for _, name := range bytes.Split(bytes.TrimSuffix(names[:n], []byte{0}), []byte{0}) {
		rewrite := w.rewriter(string(name))
		if rewrite == nil {
			continue
		}
		value := make([]byte, 64<<10) // XATTR_SIZE_MAX, the same file
		n, err := unix.Lgetxattr(file, string(name), value)
		if err == nil {
			err = rewrite(value[:n])
		}
		if err != nil {
			return nil, fmt.Errorf("attribute %s: %w", name, err)
		}
		changed[string(name)] = value[:n]
	}
	return changed, nil
}

// openDir opens a directory without following a symbolic link or entering a mount: EXDEV.
func openDir(at int, name, shown string) (*os.File, error) {
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC}
	if at != unix.AT_FDCWD {
		how.Resolve = unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS
	}
	for {
		fd, err := unix.Openat2(at, name, &how)
		if errors.Is(err, unix.ENOSYS) {
			return openDirByDevice(at, name, shown)
		}
		if err == nil {
			return os.NewFile(uintptr(fd), shown), nil
		}
		if !errors.Is(err, syscall.EINTR) && !errors.Is(err, syscall.EAGAIN) {
			return nil, &os.PathError{Op: "open", Path: shown, Err: err}
		}
	}
}

// openDirByDevice is openDir for kernels before 5.6. It knows another mount by its device, so a
// bind mount of the same file system looks like a part of the tree.
func openDirByDevice(at int, name, shown string) (*os.File, error) {
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: shown, Err: err}
	}
	f := os.NewFile(uintptr(fd), shown)
	if at == unix.AT_FDCWD {
		return f, nil
	}
	var outer, inner unix.Stat_t
	if err := errors.Join(unix.Fstat(at, &outer), unix.Fstat(fd, &inner)); err != nil {
		return nil, errors.Join(&os.PathError{Op: "stat", Path: shown, Err: err}, f.Close())
	}
	if outer.Dev != inner.Dev {
		return nil, errors.Join(&os.PathError{Op: "open", Path: shown, Err: unix.EXDEV}, f.Close())
	}
	return f, nil
}
