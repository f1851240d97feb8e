//go:build !linux

package loopfs

import "testing"

// New skips the test: there are no loop devices outside Linux.
func New(t testing.TB, _ string, _ int64, _ string) string {
	t.Helper()
	RequireRoot(t)
	return ""
}

// MountsBelow returns nothing outside Linux.
func MountsBelow(string) ([]string, error) { return nil, nil }

// Devices returns nothing outside Linux.
func Devices(string) []string { return nil }

// RequireRoot skips the test.
func RequireRoot(t testing.TB) {
	t.Helper()
	t.Skip("needs Linux: makes and mounts file systems")
}

// Command skips the test.
func Command(t testing.TB, _ ...string) { RequireRoot(t) }

// Make skips the test.
func Make(t testing.TB, _, _ string, _ int64, _ string) { RequireRoot(t) }

// Mount skips the test.
func Mount(t testing.TB, _, _ string, _ int64, _ string) string {
	t.Helper()
	RequireRoot(t)
	return ""
}

// Datasets returns nothing outside Linux.
func Datasets(testing.TB, string) []string { return nil }
