//go:build !linux

package quotatest

import "testing"

// Bounded skips the test.
func Bounded(t testing.TB, _ func()) {
	t.Helper()
	t.Skip("needs Linux")
}
