package vfs_test

import (
	"context"
	"testing"

	"strata/backend"
	"strata/backend/backendtest"
	"strata/backend/vfs"
)

func on(fs string) backendtest.Factory {
	return backendtest.Factory{Backend: "vfs", FS: fs, New: func(ctx context.Context, env backend.Env) (backend.Backend, error) {
		return vfs.New(ctx, env, vfs.NewConfig())
	}}
}

func TestConformance(t *testing.T) {
	for _, fs := range []string{"ext4", "tmpfs"} {
		t.Run(fs, func(t *testing.T) { backendtest.Run(t, on(fs)) })
	}
}

func TestCrash(t *testing.T) { backendtest.Crash(t, on("tmpfs")) }

func TestPowerCut(t *testing.T) { backendtest.PowerCut(t, on("ext4")) }
