package backendtest

import (
	"testing"

	"strata/backend/internal/loopfs"
)

// LoopFS makes a file system for tests outside of strata/backend, which see no internal package: it is loopfs.New.
func LoopFS(t testing.TB, kind string, size int64, mountOptions string) string {
	t.Helper()
	return loopfs.New(t, kind, size, mountOptions)
}

// MountsBelow returns the mount points at and below dir, for the same tests: it is loopfs.MountsBelow.
func MountsBelow(dir string) ([]string, error) { return loopfs.MountsBelow(dir) }
