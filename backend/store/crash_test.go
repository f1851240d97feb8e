package store_test

import (
	"os"
	"testing"

	"strata/backend/backendtest"
)

// TestCrash kills the store at every failpoint, on the backend that leaves all work to the store;
// with STRATA_TEST_THOROUGH set every time that one is passed, which takes minutes.
func TestCrash(t *testing.T) {
	thorough := os.Getenv("STRATA_TEST_THOROUGH") != ""
	backendtest.Crash(t, backendtest.Factory{Backend: "dir", New: backendtest.NewDir, FS: "tmpfs", Thorough: thorough})
}

// TestPowerCut cuts the power below the store on the file systems that layers lie on.
func TestPowerCut(t *testing.T) {
	for _, fs := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fs, func(t *testing.T) {
			backendtest.PowerCut(t, backendtest.Factory{Backend: "dir", New: backendtest.NewDir, FS: fs})
		})
	}
}
