package overlay_test

import (
	"os"
	"testing"

	"strata/backend/backendtest"
	"strata/backend/overlay"
)

func TestMain(m *testing.M) { os.Exit(backendtest.Main(m)) }

func on(fs string) backendtest.Factory { return backendtest.On(overlay.Driver(), fs) }

func TestConformance(t *testing.T) { backendtest.EachGround(t, overlay.Driver(), backendtest.Run) }

// TestCrash has a file system whose journal the store relies on, and one that has none.
func TestCrash(t *testing.T) {
	for _, fs := range []string{"tmpfs", "ext4"} {
		t.Run(fs, func(t *testing.T) { backendtest.Crash(t, on(fs)) })
	}
}

func TestPowerCut(t *testing.T) { backendtest.EachGround(t, overlay.Driver(), backendtest.PowerCut) }
