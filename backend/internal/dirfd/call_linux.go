package dirfd

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Retry repeats a system call as long as a signal interrupts it.
func Retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// retryFD is Retry for a call that returns a number.
func retryFD(call func() (int, error)) (n int, err error) {
	err = Retry(func() (err error) {
		n, err = call()
		return err
	})
	return n, err
}

// ReadAt fills p from an offset of an open file, and returns how much there was: less than asked for at the end of
// the file alone.
func ReadAt(fd int, p []byte, offset int64) (done int, err error) {
	for done < len(p) {
		n, err := retryFD(func() (int, error) { return unix.Pread(fd, p[done:], offset+int64(done)) })
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

// WriteAt writes all of p to an open file.
func WriteAt(fd int, p []byte, offset int64) error {
	for len(p) > 0 {
		n, err := retryFD(func() (int, error) { return unix.Pwrite(fd, p, offset) })
		if err != nil {
			return err
		}
		p, offset = p[n:], offset+int64(n)
	}
	return nil
}

// Vanished reports whether an error is that of a file that is gone since it was listed, or of a directory on the way
// to it: missing, replaced by another kind of file, or known to the server of a network file system no more.
func Vanished(err error) bool {
	for _, errno := range []unix.Errno{unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.ESTALE} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// IgnoreVanished returns nil for the errors that Vanished knows.
func IgnoreVanished(err error) error {
	if Vanished(err) {
		return nil
	}
	return err
}
