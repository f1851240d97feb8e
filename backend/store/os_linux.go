package store

import (
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// lockExclusive takes a flock(2) that ends with the file. ErrUnavailable if somebody has it.
func lockExclusive(f *os.File) error {
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("another process has it open (%w): %w", err, errdefs.ErrUnavailable)
	}
	return nil
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
