//go:build !linux

package backendtest

import "testing"

// Frugal skips the test: it needs /proc.
func Frugal(t *testing.T, _ func(*testing.T) string, _ func(*testing.T, string)) {
	t.Helper()
	requireRoot(t)
}
