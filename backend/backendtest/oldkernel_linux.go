package backendtest

import (
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
)

// OldKernel runs use in a process of its own in which openat2(2) is not there, as on kernels before 5.6.
func OldKernel(t *testing.T, use func(t *testing.T)) {
	t.Helper()
	inChild(t, func(*testing.T) string { return "" }, func(t *testing.T, _ string) {
		t.Helper()
		denyOpenat2(t)
		_, err := unix.Openat2(unix.AT_FDCWD, "/", &unix.OpenHow{})
		assert.ErrorIs(t, err, unix.ENOSYS)
		use(t)
	})
}

// denyOpenat2 filters the system calls of all threads (include/uapi/linux/seccomp.h): data begins with the number.
func denyOpenat2(t *testing.T) {
	t.Helper()
	const setModeFilter, allThreads = 1, 1
	const errno, allow = 0x0005_0000, 0x7fff_0000
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_OPENAT2, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: errno | uint32(unix.ENOSYS)},
		{Code: unix.BPF_RET | unix.BPF_K, K: allow},
	}
	f := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, _, failed := unix.Syscall(unix.SYS_SECCOMP, setModeFilter, allThreads, uintptr(unsafe.Pointer(&f)))
	assert.Assert(t, failed == 0, "seccomp: %v", failed)
}
