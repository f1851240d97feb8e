package dirsink

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"strata/backend/internal/layertar/openat"
)

// Flush makes everything in the file system that holds dir durable, a layer applied to it before
// included: syncfs(2), which on ext4, xfs and btrfs also reports errors of earlier write-back.
func Flush(ctx context.Context, dir string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	fd, err := openat.OpenRoot(dir)
	if err != nil {
		return err
	}
	if err := errors.Join(unix.Syncfs(fd), unix.Close(fd)); err != nil {
		return fmt.Errorf("flush file system of %s: %w", dir, err)
	}
	return nil
}

// fewPaths is how many files and directories are synced one by one: see the package comment.
const fewPaths = 8

// touched are the files and directories that have to be synced, as long as they are few. It is used
// by the parser only.
type touched struct {
	paths map[string]bool // true for a directory
	many  bool
}

func (t *touched) add(path string, dir bool) {
	if t.many {
		return
	}
	if t.paths == nil {
		t.paths = map[string]bool{}
	}
	t.paths[path] = dir
	if len(t.paths) > fewPaths {
		t.many, t.paths = true, nil
	}
}

// sync makes durable what was unpacked below root.
func (t *touched) sync(root int) (err error) {
	if t.many {
		return unix.Syncfs(root)
	}
	dirs := openat.NewDirReader(root)
	defer dirs.Close()
	var fds []int
	defer func() {
		for _, fd := range fds {
			openat.CloseQuietly(fd, -1)
		}
	}()
	for path, dir := range t.paths {
		var fd int
		if dir {
			fd, err = openat.OpenDirAt(root, path)
		} else {
			fd, err = dirs.File(path)
		}
		if err != nil {
			// The tar deleted it again, but may have linked it to another name before.
			return unix.Syncfs(root)
		}
		fds = append(fds, fd)
		// All at once, so that the first of the syncs finds the blocks of all allocated, and a journal needs one
		// trip to the disk, not one for each.
		if !dir {
			if err := unix.SyncFileRange(fd, 0, 0, unix.SYNC_FILE_RANGE_WRITE); err != nil {
				return fmt.Errorf("start write-back: %w", err)
			}
		}
	}
	var group errgroup.Group
	for _, fd := range append(fds, root) {
		group.Go(func() error { return unix.Fsync(fd) })
	}
	return group.Wait()
}
