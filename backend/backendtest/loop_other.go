//go:build !linux

package backendtest

import "testing"

// Smallest sizes that mkfs accepts.
const (
	SmallXFS   = 320 << 20
	SmallBtrfs = 128 << 20
	SmallExt4  = 64 << 20
	SmallZFS   = 256 << 20
)

// LoopFS skips the test: there are no loop devices outside Linux.
func LoopFS(t testing.TB, _ string, _ int64, _ string) string {
	t.Helper()
	requireRoot(t)
	return ""
}

// MountsBelow returns nothing outside Linux.
func MountsBelow(string) ([]string, error) { return nil, nil }

// LoopDevices returns nothing outside Linux.
func LoopDevices(string) []string { return nil }

func requireRoot(t testing.TB) {
	t.Helper()
	t.Skip("needs Linux: makes and mounts file systems")
}

func command(t testing.TB, _ ...string) { requireRoot(t) }

func makeImage(t testing.TB, _, _ string, _ int64, _ string) { requireRoot(t) }

func mountImage(t testing.TB, _, _ string, _ int64, _ string) string {
	t.Helper()
	requireRoot(t)
	return ""
}

func datasets(testing.TB, string) []string { return nil }
