// Package quotatest makes file systems with project quota for tests, and processes that keep to it.
package quotatest

import (
	"os"
	"testing"

	"strata/backend/internal/loopfs"
)

// FS returns where a file system of the given kind, "ext4" or "xfs", with project quota switched on is
// mounted until the test ends. It skips the test without root, and on a kernel that says that it cannot
// keep that kind's quota.
func FS(t testing.TB, kind string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes and mounts file systems")
	}
	loopfs.RequireKernel(t, map[string]string{"ext4": "CONFIG_QFMT_V2", "xfs": "CONFIG_XFS_QUOTA"}[kind])
	return loopfs.New(t, kind, loopfs.Small("xfs"), "prjquota")
}
