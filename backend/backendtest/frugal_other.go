//go:build !linux

package backendtest

import (
	"testing"

	"strata/backend/internal/loopfs"
)

// Frugal skips the test: it needs /proc.
func Frugal(t *testing.T, _ func(*testing.T) string, _ func(*testing.T, string)) {
	t.Helper()
	loopfs.RequireRoot(t)
}
