package overlay_test

import (
	"context"
	"os"
	"testing"

	"strata/backend"
	"strata/backend/backendtest"
	"strata/backend/overlay"
)

func TestMain(m *testing.M) { os.Exit(backendtest.Main(m)) }

func construct(ctx context.Context, env backend.Env) (backend.Backend, error) {
	return overlay.New(ctx, env, overlay.NewConfig())
}

func on(fs string) backendtest.Factory {
	return backendtest.Factory{Backend: "overlay", New: construct, FS: fs}
}

func TestConformance(t *testing.T) {
	for _, fs := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fs, func(t *testing.T) { backendtest.Run(t, on(fs)) })
	}
}

// TestCrash has a file system whose journal the store relies on, and one that has none.
func TestCrash(t *testing.T) {
	for _, fs := range []string{"tmpfs", "ext4"} {
		t.Run(fs, func(t *testing.T) { backendtest.Crash(t, on(fs)) })
	}
}

func TestPowerCut(t *testing.T) {
	for _, fs := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fs, func(t *testing.T) { backendtest.PowerCut(t, on(fs)) })
	}
}
