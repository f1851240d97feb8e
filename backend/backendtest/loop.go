package backendtest

import (
	"strings"
	"testing"

	"strata/backend"
	"strata/backend/internal/loopfs"
)

// LoopFS makes a file system for tests outside of strata/backend, which see no internal package: it is loopfs.New.
func LoopFS(t testing.TB, kind string, size int64, mountOptions string) string {
	t.Helper()
	return loopfs.New(t, kind, size, mountOptions)
}

// Prepare makes what a driver is to be tested on, of size bytes, and returns where it is mounted until
// the test ends. It skips the test on a kernel that cannot have it.
func Prepare(t testing.TB, g backend.Ground, size int64) string {
	t.Helper()
	if g.Kernel != "" {
		loopfs.RequireKernel(t, g.Kernel)
	}
	dir := loopfs.New(t, g.FS, size, g.MountOptions)
	if g.Enable != "" {
		loopfs.Command(t, append(strings.Fields(g.Enable), dir)...)
	}
	return dir
}

// MountsBelow returns the mount points at and below dir, for the same tests: it is loopfs.MountsBelow.
func MountsBelow(dir string) ([]string, error) { return loopfs.MountsBelow(dir) }
