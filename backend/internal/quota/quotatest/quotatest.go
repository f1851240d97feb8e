// Package quotatest makes file systems with project quota for tests, and processes that keep to it.
package quotatest

import (
	"compress/gzip"
	"errors"
	"io"
	"os"
	"strings"
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
	option := map[string]string{"ext4": "CONFIG_QFMT_V2", "xfs": "CONFIG_XFS_QUOTA"}[kind]
	if lacks(t, option) {
		t.Skipf("the kernel is built without %s: %s cannot be mounted with quota", option, kind)
	}
	return loopfs.New(t, kind, loopfs.Small("xfs"), "prjquota")
}

// lacks reads the kernel's own build configuration; false where it does not show one.
func lacks(t testing.TB, option string) bool {
	t.Helper()
	f, err := os.Open("/proc/config.gz")
	if errors.Is(err, os.ErrNotExist) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return !strings.Contains(string(text), "\n"+option+"=")
}
