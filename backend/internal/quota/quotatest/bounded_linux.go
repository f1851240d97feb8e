package quotatest

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// Bounded calls f on a thread without CAP_SYS_RESOURCE, as a container's processes are: with it, ext4
// ignores all limits.
func Bounded(t testing.TB, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var all [2]unix.CapUserData
	if err := unix.Capget(&header, &all[0]); err != nil {
		t.Fatalf("capget: %v", err)
	}
	fewer := all
	fewer[0].Effective &^= 1 << unix.CAP_SYS_RESOURCE
	if err := unix.Capset(&header, &fewer[0]); err != nil {
		t.Fatalf("capset: %v", err)
	}
	defer func() {
		if err := unix.Capset(&header, &all[0]); err != nil {
			t.Fatalf("capset: %v", err)
		}
	}()
	f()
}
