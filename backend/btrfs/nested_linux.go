package btrfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"strata/backend/btrfs/ioctl"
	"strata/backend/internal/dirfd"
	"strata/backend/internal/failpoint"
	"strata/backend/internal/tree"
)

// destroy deletes what is called name in parent: a subvolume with those inside it, deepest first, or a
// plain tree. Nothing is fine. Mount points on the way to a nested subvolume are an ErrFailedPrecondition.
func destroy(ctx context.Context, parent dirfd.Dir, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d, err := parent.Open(name)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) { // RemoveAll knows what to do with a file
		return tree.RemoveAll(ctx, filepath.Join(parent.Path, name))
	}
	if err != nil {
		return err
	}
	id, err := empty(ctx, d)
	path := d.Path
	d.Close()
	if err != nil {
		return err
	}
	if id == 0 {
		return tree.RemoveAll(ctx, path)
	}
	if err := failpoint.Hit("btrfs.remove.nested-removed"); err != nil {
		return err
	}
	err = ioctl.DestroySubvolume(parent.FD, name)
	if errors.Is(err, unix.EPERM) && unprotect(parent, name) {
		err = ioctl.DestroySubvolume(parent.FD, name)
	}
	if err != nil {
		return err
	}
	if err := failpoint.Hit("btrfs.remove.subvolume-removed"); err != nil {
		return err
	}
	return ioctl.DestroyQgroup(parent.FD, id)
}

// unprotect clears the flags (chattr) that keep a subvolume from being deleted. It tells whether there were any.
func unprotect(parent dirfd.Dir, name string) bool {
	d, err := parent.Open(name)
	if err != nil {
		return false
	}
	err = ioctl.SetReadOnly(d.FD, false) // flags are as read-only as all else
	d.Close()
	return err == nil && dirfd.Unprotect(parent, dirfd.Entry{Name: name, Type: unix.DT_DIR})
}

// empty deletes the subvolumes inside the subvolume d, and returns d's ID; 0 if it is none.
func empty(ctx context.Context, d dirfd.Dir) (id uint64, err error) {
	is, err := isSubvolume(d)
	if err != nil || !is {
		return 0, err
	}
	info, err := ioctl.SubvolumeOf(d.FD)
	if err != nil {
		return 0, err
	}
	inside, err := ioctl.NestedIn(ctx, d.FD, info.ID)
	if err != nil {
		return 0, err
	}
	if len(inside) > 0 { // they are entries of its directories
		if err := ioctl.SetReadOnly(d.FD, false); err != nil {
			return 0, err
		}
	}
	for _, n := range inside {
		if err := destroyNested(ctx, d, info.ID, n); err != nil {
			return 0, err
		}
	}
	return info.ID, nil
}

func destroyNested(ctx context.Context, d dirfd.Dir, id uint64, n ioctl.Nested) error {
	at, err := openByInode(d, id, n.Dir)
	if err != nil {
		return err
	}
	defer at.Close()
	return destroy(ctx, at, n.Name)
}

// openByInode opens a directory of the subvolume whose root is d.
func openByInode(d dirfd.Dir, subvolume, inode uint64) (dirfd.Dir, error) {
	path, err := ioctl.PathOf(d.FD, subvolume, inode)
	if err != nil {
		return dirfd.Dir{}, err
	}
	return openBelow(d, path)
}

// openBelow opens a directory by its path below d. Neither links nor mount points are crossed.
func openBelow(d dirfd.Dir, path string) (dirfd.Dir, error) {
	at, err := d.Open(".")
	if err != nil || path == "" {
		return at, err
	}
	for name := range strings.SplitSeq(path, "/") {
		next, err := at.Open(name)
		at.Close()
		if err != nil {
			return dirfd.Dir{}, err
		}
		at = next
	}
	return at, nil
}

// snapshotNested puts snapshots of the subvolumes inside from into its snapshot to, where there are empty
// directories in their place.
func snapshotNested(ctx context.Context, from, to dirfd.Dir) error {
	info, err := ioctl.SubvolumeOf(from.FD)
	if err != nil {
		return err
	}
	inside, err := ioctl.NestedIn(ctx, from.FD, info.ID)
	if err != nil {
		return err
	}
	for _, n := range inside {
		path, err := ioctl.PathOf(from.FD, info.ID, n.Dir)
		if err == nil {
			err = snapshotOne(ctx, from, to, path, n.Name)
		}
		if err != nil {
			return fmt.Errorf("copy nested subvolume %s/%s: %w", path, n.Name, err)
		}
	}
	return nil
}

func snapshotOne(ctx context.Context, from, to dirfd.Dir, path, name string) error {
	source, err := openBelow(from, strings.TrimPrefix(path+"/"+name, "/"))
	if err != nil {
		return err
	}
	defer source.Close()
	at, err := openBelow(to, path)
	if err != nil {
		return err
	}
	defer at.Close()
	return dirfd.Protected(at, dirfd.Entry{Name: ".", Type: unix.DT_DIR}, func() error { return snapshotInto(ctx, source, at, name) })
}

// snapshotInto puts a snapshot of source into the directory at, in the place of the empty directory name.
func snapshotInto(ctx context.Context, source, at dirfd.Dir, name string) error {
	var st unix.Stat_t
	if err := unix.Fstat(at.FD, &st); err != nil {
		return &os.PathError{Op: "stat", Path: at.Path, Err: err}
	}
	if err := unix.Unlinkat(at.FD, name, unix.AT_REMOVEDIR); err != nil {
		return &os.PathError{Op: "remove", Path: at.Path + "/" + name, Err: err}
	}
	if err := ioctl.CreateSnapshot(at.FD, name, source.FD); err != nil {
		return err
	}
	copied, err := at.Open(name)
	if err != nil {
		return err
	}
	defer copied.Close()
	if err := snapshotNested(ctx, source, copied); err != nil {
		return err
	}
	// The directory is the parent's again.
	times := []unix.Timespec{st.Atim, st.Mtim}
	if err := unix.UtimesNanoAt(at.FD, "", times, unix.AT_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "set times of", Path: at.Path, Err: err}
	}
	return nil
}
