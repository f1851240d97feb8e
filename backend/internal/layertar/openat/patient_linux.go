package openat

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"strata/backend/internal/dirfd"
)

// NoDescriptor tells that a file could not be opened because too many are.
func NoDescriptor(err error) bool { return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) }

// Waits for a descriptor, which others that work at the same time give back.
const (
	firstWait = time.Millisecond
	lastWait  = 4 * time.Second
)

// Patiently opens a file, and waits where there are too many open ones.
func Patiently(open func() (int, error)) (int, error) {
	for wait := firstWait; ; wait *= 2 {
		fd := -1
		err := dirfd.Retry(func() (err error) {
			fd, err = open()
			return err
		})
		if !NoDescriptor(err) || wait > lastWait {
			return fd, err
		}
		time.Sleep(wait)
	}
}
