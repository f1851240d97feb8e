package tree

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	// removers is how many goroutines work on one tree. Directories are locked one by one, the journal
	// is shared, so a second one pays and more do not.
	removers = 2
	// removeDepth is how deep a tree is removed in place. What lies deeper is moved up first, so
	// that neither descriptors nor the stack limit the depth.
	removeDepth = 256
)

// RemoveAll removes dir, whatever it is, and all below it; nil if there is nothing. It clears immutable
// and append-only flags that are in the way. At the first error it stops and leaves the rest. A mount
// point is an ErrFailedPrecondition that names it, and what is mounted there is not touched. It may be
// repeated after an error or a crash.
func RemoveAll(ctx context.Context, dir string) error {
	parent, err := Open(filepath.Dir(dir))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove tree: %w", err)
	}
	defer parent.Close()
	r := remover{slots: make(chan struct{}, removers-1)}
	if err := r.entry(ctx, parent, Entry{Name: filepath.Base(dir)}, 0); err != nil {
		return fmt.Errorf("remove tree: %w", err)
	}
	return nil
}

// remover removes one tree.
type remover struct {
	slots chan struct{} // one element for each goroutine besides the caller's
	top   Dir           // the tree's root directory
	moved atomic.Int64  // directories moved up to it so far
}

// entry removes one name in a directory.
func (r *remover) entry(ctx context.Context, d Dir, e Entry, depth int) error {
	if e.Type != unix.DT_DIR {
		err := r.unlink(d, e, 0)
		if !errors.Is(err, unix.EISDIR) {
			return err
		}
	}
	if depth > removeDepth && r.moveUp(d, e) {
		return nil
	}
	return r.directory(ctx, d, e, depth)
}

func (r *remover) directory(ctx context.Context, parent Dir, e Entry, depth int) error {
	d, err := parent.Open(e.Name)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	if depth == 0 {
		r.top = d
	}
	for {
		if err := r.empty(ctx, d, depth); err != nil {
			return err
		}
		err := r.unlink(parent, e, unix.AT_REMOVEDIR)
		if !errors.Is(err, unix.ENOTEMPTY) {
			return err
		}
		// Something was moved up to here, is new, or getdents lost its place when entries went away.
		if _, err := unix.Seek(d.FD, 0, unix.SEEK_SET); err != nil {
			return &os.PathError{Op: "rewind", Path: d.Path, Err: err}
		}
	}
}

// empty removes what getdents shows in d, subdirectories in another goroutine if one is free.
func (r *remover) empty(ctx context.Context, d Dir, depth int) error {
	var others errgroup.Group
	err := r.emptyWith(ctx, d, depth, &others)
	if other := others.Wait(); err == nil {
		err = other
	}
	return err
}

func (r *remover) emptyWith(ctx context.Context, d Dir, depth int, others *errgroup.Group) error {
	var list []Entry
	buf := make([]byte, listBuffer)
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("remove %s: %w", d.Path, err)
		}
		var err error
		if list, err = d.next(buf, list); err != nil || len(list) == 0 {
			return err
		}
		// In inode order ext4 and xfs touch each block of their inode tables once.
		slices.SortFunc(list, func(a, b Entry) int { return cmp.Compare(a.Ino, b.Ino) })
		for _, e := range list {
			if e.Type == unix.DT_DIR && r.inBackground(ctx, d, e, depth, others) {
				continue
			}
			if err := r.entry(ctx, d, e, depth+1); err != nil {
				return err
			}
		}
	}
}

func (r *remover) inBackground(ctx context.Context, d Dir, e Entry, depth int, others *errgroup.Group) bool {
	select {
	case r.slots <- struct{}{}:
	default:
		return false
	}
	others.Go(func() error {
		defer func() { <-r.slots }()
		return r.entry(ctx, d, e, depth+1)
	})
	return true
}

// moveUp moves a directory to the root of the tree, where a later round finds it.
func (r *remover) moveUp(d Dir, e Entry) bool {
	name := ".strata-removing-" + strconv.FormatInt(r.moved.Add(1), 10)
	// An error is no harm: the directory is then removed where it is.
	return unix.Renameat2(d.FD, e.Name, r.top.FD, name, unix.RENAME_NOREPLACE) == nil
}

// unlink removes one name, after clearing flags that forbid it. EISDIR and ENOTEMPTY come back as they are.
func (r *remover) unlink(d Dir, e Entry, flags int) error {
	err := unix.Unlinkat(d.FD, e.Name, flags)
	if errors.Is(err, unix.EPERM) && unprotect(d, e) {
		err = unix.Unlinkat(d.FD, e.Name, flags)
	}
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.EISDIR), errors.Is(err, unix.ENOTEMPTY):
		return err
	case errors.Is(err, unix.EBUSY):
		return mountPointError(filepath.Join(d.Path, e.Name))
	}
	return &os.PathError{Op: "remove", Path: filepath.Join(d.Path, e.Name), Err: err}
}

// unprotect clears the immutable and append-only flags of a file and of the directory it is in. It
// tells whether there were any.
func unprotect(d Dir, e Entry) bool {
	cleared := clearFlags(d.FD)
	if e.Type == unix.DT_REG || e.Type == unix.DT_DIR || e.Type == unix.DT_UNKNOWN {
		if fd, err := d.OpenFile(e.Name); err == nil {
			cleared = clearFlags(fd) || cleared
			_ = unix.Close(fd) // only read
		}
	}
	return cleared
}

func clearFlags(fd int) bool {
	const protecting = 0x10 | 0x20 // FS_IMMUTABLE_FL | FS_APPEND_FL in include/uapi/linux/fs.h
	flags, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
	if err != nil || flags&protecting == 0 {
		return false
	}
	return unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, flags&^protecting) == nil
}
