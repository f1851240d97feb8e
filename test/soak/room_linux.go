package main

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// takeRoom makes a file as long as the disk lets it, to some hundred KiB.
func takeRoom(f *os.File) error {
	const least = 256 << 10
	var end int64
	for step := int64(1 << 30); step >= least; {
		err := unix.Fallocate(int(f.Fd()), 0, end, step)
		switch {
		case err == nil:
			end += step
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ENOSPC):
			step /= 2
		default:
			return os.NewSyscallError("fallocate", err)
		}
	}
	return nil
}
