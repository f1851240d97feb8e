package store

import (
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// lockPatience is how long somebody may have the lock: a process that was killed just now leaves it to
// a child that was about to run another program, until it does.
const lockPatience = 2 * time.Second

// lockExclusive takes a flock(2) that ends with the file. ErrUnavailable if somebody keeps it.
func lockExclusive(f *os.File) error {
	for deadline := time.Now().Add(lockPatience); ; time.Sleep(20 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if err != unix.EWOULDBLOCK && err != unix.EINTR || time.Now().After(deadline) {
			return fmt.Errorf("another process has it open (%w): %w", err, errdefs.ErrUnavailable)
		}
	}
}

// fileInfo is what DiffSize wants to know about a path.
type fileInfo struct {
	file  bool  // a regular file
	size  int64 // bytes
	ino   uint64
	links uint64
}

func lstat(path string) (fileInfo, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return fileInfo{}, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	return fileInfo{file: st.Mode&unix.S_IFMT == unix.S_IFREG, size: st.Size, ino: st.Ino, links: uint64(st.Nlink)}, nil
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
