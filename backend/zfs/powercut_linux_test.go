package zfs_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"strata/backend/backendtest"
)

// TestPowerCut is one of two halves, of which each has a boot of its own (scripts/test zfs): the environment says which,
// and names a file that the cut does not reach. The pool on the disk /dev/vda is called cut. It is on a loop device: zpool
// makes partitions on whole disks, and waits for udev to show them.
func TestPowerCut(t *testing.T) {
	const after = 20 * time.Second
	mnt, journal := "/run/cut", os.Getenv("STRATA_TEST_JOURNAL")
	root := filepath.Join(mnt, "store")
	loop := func() string { return strings.TrimSpace(command(t, "losetup", "--find", "--show", "/dev/vda")) }
	switch os.Getenv("STRATA_TEST_POWERCUT") {
	case "load":
		command(t, "zpool", "create", "-f", "-m", mnt, "cut", loop())
		backendtest.LoadUntilCut(t, factory(), root, journal, after, func() error {
			return os.WriteFile("/proc/sysrq-trigger", []byte("b"), 0)
		})
	case "verify":
		command(t, "zpool", "import", "-f", "-d", loop(), "cut")
		backendtest.VerifyCut(t, factory(), root, journal)
		command(t, "zpool", "destroy", "cut")
	default:
		t.Skip("needs a machine whose power can be cut: scripts/test zfs has one")
	}
}
