package tree

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// SyncDeleted makes it durable that names in a directory are gone. What others have just put into it
// may stay undurable: on btrfs, where a sync of the directory would log all of its names, the whole
// file system is synced instead, in which all that happened happened in order.
func SyncDeleted(dir string) (err error) {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if st.Type != unix.BTRFS_SUPER_MAGIC {
		return f.Sync()
	}
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return &os.PathError{Op: "syncfs", Path: dir, Err: err}
	}
	return nil
}
