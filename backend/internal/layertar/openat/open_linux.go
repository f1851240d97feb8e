package openat

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Retry repeats a system call that a signal interrupted.
func Retry(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

const DirFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

// OpenRoot opens the directory that everything else stays in.
func OpenRoot(dir string) (int, error) {
	fd := -1
	err := Retry(func() (err error) {
		fd, err = unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return -1, fmt.Errorf("open layer directory %s: %w", dir, err)
	}
	return fd, nil
}

// OpenDirAt opens the directory at a clean relative path below root. A symlink anywhere in the path
// is ELOOP or ENOTDIR, a mount point EXDEV.
func OpenDirAt(root int, path string) (int, error) {
	if path == "." {
		return OpenAt(root, ".", DirFlags)
	}
	how := unix.OpenHow{
		Flags:   DirFlags,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	fd := -1
	err := Retry(func() (err error) {
		fd, err = unix.Openat2(root, path, &how)
		return err
	})
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ENAMETOOLONG) { // before Linux 5.6, or longer than PATH_MAX
		return walkDirAt(root, path)
	}
	return fd, err
}

// walkDirAt is OpenDirAt for kernels without openat2 and for any length of path: one component at a time.
func walkDirAt(root int, path string) (int, error) {
	at := root
	for part := range strings.SplitSeq(path, "/") {
		if part == ".." {
			CloseQuietly(at, root)
			return -1, unix.EXDEV
		}
		next, err := OpenAt(at, part, DirFlags)
		CloseQuietly(at, root)
		if err != nil {
			return -1, err
		}
		at = next
	}
	return at, nil
}

// CloseQuietly closes a directory that was only read, unless it is keep. There is nothing to lose.
func CloseQuietly(fd, keep int) {
	if fd != keep {
		_ = unix.Close(fd) // read only: an error can lose nothing
	}
}

func OpenAt(dir int, name string, flags int) (int, error) {
	fd := -1
	err := Retry(func() (err error) {
		fd, err = unix.Openat(dir, name, flags, 0)
		return err
	})
	return fd, err
}

// OpenFileAt opens a file for reading without following a symlink, without waiting for the other
// end of a FIFO and, where the owner permits, without changing its access time: on a fresh layer
// that would dirty every inode.
func OpenFileAt(dir int, name string) (int, error) {
	const flags = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
	return Patiently(func() (int, error) {
		fd, err := OpenAt(dir, name, flags|unix.O_NOATIME)
		if errors.Is(err, unix.EPERM) {
			return OpenAt(dir, name, flags)
		}
		return fd, err
	})
}

// PreadFull fills p from the offset and returns how much there was.
func PreadFull(fd int, p []byte, offset int64) (int, error) {
	done := 0
	for done < len(p) {
		var n int
		err := Retry(func() (err error) {
			n, err = unix.Pread(fd, p[done:], offset+int64(done))
			return err
		})
		if err != nil {
			return done, err
		}
		if n == 0 {
			break
		}
		done += n
	}
	return done, nil
}

// ReadLink returns the target of a symlink.
func ReadLink(dir int, name string) (string, error) {
	b := make([]byte, 4096) // PATH_MAX: no target is longer
	n, err := unix.Readlinkat(dir, name, b)
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}
