package layertar

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// retry repeats a system call that a signal interrupted.
func retry(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

const dirFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

// openRoot opens the directory that everything else stays in.
func openRoot(dir string) (int, error) {
	fd := -1
	err := retry(func() (err error) {
		fd, err = unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return -1, fmt.Errorf("open layer directory %s: %w", dir, err)
	}
	return fd, nil
}

// openDirAt opens the directory at a clean relative path below root. A symlink anywhere in the path
// is ELOOP or ENOTDIR, a mount point EXDEV.
func openDirAt(root int, path string) (int, error) {
	if path == "." {
		return openAt(root, ".", dirFlags)
	}
	how := unix.OpenHow{
		Flags:   dirFlags,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	fd := -1
	err := retry(func() (err error) {
		fd, err = unix.Openat2(root, path, &how)
		return err
	})
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ENAMETOOLONG) { // before Linux 5.6, or longer than PATH_MAX
		return walkDirAt(root, path)
	}
	return fd, err
}

// walkDirAt is openDirAt for kernels without openat2 and for any length of path: one component at a time.
func walkDirAt(root int, path string) (int, error) {
	at := root
	for part := range strings.SplitSeq(path, "/") {
		if part == ".." {
			closeQuietly(at, root)
			return -1, unix.EXDEV
		}
		next, err := openAt(at, part, dirFlags)
		closeQuietly(at, root)
		if err != nil {
			return -1, err
		}
		at = next
	}
	return at, nil
}

// closeQuietly closes a directory that was only read, unless it is keep. There is nothing to lose.
func closeQuietly(fd, keep int) {
	if fd != keep {
		_ = unix.Close(fd) // read only: an error can lose nothing
	}
}

func openAt(dir int, name string, flags int) (int, error) {
	fd := -1
	err := retry(func() (err error) {
		fd, err = unix.Openat(dir, name, flags, 0)
		return err
	})
	return fd, err
}

// openFileAt opens a file for reading without following a symlink, without waiting for the other
// end of a FIFO and, where the owner permits, without changing its access time: on a fresh layer
// that would dirty every inode.
func openFileAt(dir int, name string) (int, error) {
	const flags = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
	return patiently(func() (int, error) {
		fd, err := openAt(dir, name, flags|unix.O_NOATIME)
		if errors.Is(err, unix.EPERM) {
			return openAt(dir, name, flags)
		}
		return fd, err
	})
}

// preadFull fills p from the offset and returns how much there was.
func preadFull(fd int, p []byte, offset int64) (int, error) {
	done := 0
	for done < len(p) {
		var n int
		err := retry(func() (err error) {
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

// readLink returns the target of a symlink.
func readLink(dir int, name string) (string, error) {
	b := make([]byte, 4096) // PATH_MAX: no target is longer
	n, err := unix.Readlinkat(dir, name, b)
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}
