package openat

import (
	"fmt"

	"golang.org/x/sys/unix"

	"strata/backend/internal/dirfd"
)

// DirFlags opens a directory.
const DirFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

// OpenRoot opens the directory that everything else stays in.
func OpenRoot(dir string) (int, error) {
	fd := -1
	err := dirfd.Retry(func() (err error) {
		fd, err = unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return -1, fmt.Errorf("open layer directory %s: %w", dir, err)
	}
	return fd, nil
}

// OpenDirAt opens the directory at a clean relative path below root, with the errors of dirfd.Dir.OpenBeneath.
func OpenDirAt(root int, path string) (int, error) {
	return dirfd.Dir{FD: root}.OpenBeneath(path, unix.O_DIRECTORY)
}

// CloseQuietly closes a directory that was only read, unless it is keep. There is nothing to lose.
func CloseQuietly(fd, keep int) {
	if fd != keep {
		_ = unix.Close(fd) // read only: an error can lose nothing
	}
}

// OpenAt is openat(2).
func OpenAt(dir int, name string, flags int) (int, error) {
	fd := -1
	err := dirfd.Retry(func() (err error) {
		fd, err = unix.Openat(dir, name, flags, 0)
		return err
	})
	return fd, err
}

// OpenFileAt opens a file for reading, and waits where there are too many open ones. Its access time stays as it is
// where the owner permits: on a fresh layer that would dirty every inode. The errors are those of
// dirfd.Dir.OpenBeneath.
func OpenFileAt(dir int, name string) (int, error) {
	return Patiently(func() (int, error) { return dirfd.Dir{FD: dir}.OpenFile(name) })
}

// ReadLink returns the target of a symlink.
func ReadLink(dir int, name string) (string, error) { return dirfd.Dir{FD: dir}.Readlink(name, 0) }
