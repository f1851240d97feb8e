package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strata/backend/internal/dirfd"
)

// lockPatience is how long somebody may have the lock: a process that was killed just now leaves it to
// a child that was about to run another program, until it does.
const lockPatience = 2 * time.Second

// lockExclusive takes a flock(2) that ends with the file. ErrUnavailable, with the name of who has it, if somebody keeps it.
func lockExclusive(f *os.File) error {
	for deadline := time.Now().Add(lockPatience); ; time.Sleep(20 * time.Millisecond) {
		err := dirfd.Retry(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return &os.PathError{Op: "flock", Path: f.Name(), Err: err}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("another process has it open, %s: %w", holder(f), errdefs.ErrUnavailable)
		}
	}
}

// disinherit takes from a directory of the store's what it got from the one above it, and would pass on to all that is made in it: group,
// set-group-ID bit and access control lists. What is so already is left alone: ZFS on a full disk refuses even that.
func disinherit(dir string) error {
	d, err := dirfd.Open(dir + "/.") // it may be a symbolic link to a larger disk
	if err != nil {
		return err
	}
	defer d.Close()
	st, err := d.Self().Stat()
	if err != nil {
		return err
	}
	if int(st.Uid) != os.Geteuid() || st.Gid != ourGroup() {
		if err := os.Chown(dir, os.Geteuid(), int(ourGroup())); err != nil {
			return err
		}
	}
	for _, name := range []string{dirfd.DefaultACL, dirfd.ACL} {
		_, has, err := d.Self().Xattr(name)
		if has && err == nil {
			err = d.Self().RemoveXattr(name)
		}
		if err != nil {
			return err
		}
	}
	if st.Mode&0o7777 == closedMode {
		return nil
	}
	return os.Chmod(dir, closedMode)
}

// hasAccess tells whether a directory has a mode and a group.
func hasAccess(dir string, mode os.FileMode, gid uint32) (bool, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return false, &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	return os.FileMode(st.Mode&0o7777) == mode && st.Gid == gid, nil
}

// rmdir removes an empty directory, never a file.
func rmdir(path string) error { return unix.Rmdir(path) }

// fileInfo is what DiffSize wants to know about a path.
type fileInfo struct {
	file  bool  // a regular file
	size  int64 // bytes
	ino   uint64
	links uint64
}

// lstat looks at a file in a directory, however long the path from there is.
func lstat(dir, path string) (info fileInfo, err error) {
	var st unix.Stat_t
	if full := filepath.Join(dir, path); len(full) <= dirfd.MaxPath {
		err = unix.Lstat(full, &st)
	} else {
		st, err = lstatFar(dir, path)
	}
	if err != nil {
		return fileInfo{}, &os.PathError{Op: "lstat", Path: filepath.Join(dir, path), Err: err}
	}
	return fileInfo{file: st.Mode&unix.S_IFMT == unix.S_IFREG, size: st.Size, ino: st.Ino, links: uint64(st.Nlink)}, nil
}

func lstatFar(dir, path string) (st unix.Stat_t, err error) {
	root, err := dirfd.Open(dir)
	if err != nil {
		return st, err
	}
	defer root.Close()
	return root.Lstat(strings.TrimPrefix(path, "/"))
}

// oneJournal tells whether two directories are on the same file system, and that is one which writes
// all that happens to names to a journal in order.
func oneJournal(a, b string) (bool, error) {
	var sa, sb unix.Stat_t
	if err := unix.Stat(a, &sa); err != nil {
		return false, &os.PathError{Op: "stat", Path: a, Err: err}
	}
	if err := unix.Stat(b, &sb); err != nil {
		return false, &os.PathError{Op: "stat", Path: b, Err: err}
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(a, &fs); err != nil {
		return false, &os.PathError{Op: "statfs", Path: a, Err: err}
	}
	return sa.Dev == sb.Dev && (fs.Type == unix.EXT4_SUPER_MAGIC || fs.Type == unix.XFS_SUPER_MAGIC), nil
}
