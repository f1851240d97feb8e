package ioctl

import (
	"fmt"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"strata/backend/internal/dirfd"
)

// The numbers, structures and flags below are those of include/uapi/linux/btrfs.h.
const (
	ioctlMagic = 0x94

	nrSync          = 8
	nrSubvolCreate  = 14
	nrSnapDestroy   = 15
	nrTreeSearchV2  = 17
	nrInoLookup     = 18
	nrSnapCreateV2  = 23
	nrSubvolGet     = 25
	nrSubvolSet     = 26
	nrQgroupCreate  = 42
	nrQgroupLimit   = 43
	nrGetSubvolInfo = 60
)

// direction of an ioctl's data, as the program sees it.
type direction uint8

const (
	dirNone direction = iota
	dirIn             // the kernel reads: _IOW
	dirOut            // the kernel writes: _IOR
	dirBoth
)

// request encodes the number of an ioctl (include/uapi/asm-generic/ioctl.h; powerpc and mips have an
// encoding of their own).
func request(d direction, nr, size uintptr) uintptr {
	code, shift := [...]uintptr{dirNone: 0, dirIn: 1, dirOut: 2, dirBoth: 3}, 30
	if strings.HasPrefix(runtime.GOARCH, "ppc") || strings.HasPrefix(runtime.GOARCH, "mips") {
		code, shift = [...]uintptr{dirNone: 1, dirIn: 4, dirOut: 2, dirBoth: 6}, 29
	}
	return code[d]<<shift | size<<16 | ioctlMagic<<8 | nr
}

// ioctl passes arg to the kernel.
func ioctl[T any](fd int, d direction, nr uintptr, arg *T) error {
	return ioctlSized(fd, request(d, nr, unsafe.Sizeof(*arg)), unsafe.Pointer(arg))
}

// ioctlSized is for structures with a variable end, of which the number encodes the fixed part only.
func ioctlSized(fd int, number uintptr, arg unsafe.Pointer) error {
	return dirfd.Retry(func() error {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), number, uintptr(arg)); errno != 0 {
			return errno
		}
		return nil
	})
}

// naming names what an ioctl was to be done to; nil stays nil.
func naming(verb, object string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s: %w", verb, object, err)
}
