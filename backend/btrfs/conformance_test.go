package btrfs_test

import (
	"context"
	"os"
	"testing"

	"strata/backend"
	"strata/backend/backendtest"
	"strata/backend/btrfs"
)

func TestMain(m *testing.M) { os.Exit(backendtest.Main(m)) }

func construct(ctx context.Context, env backend.Env) (backend.Backend, error) {
	return btrfs.New(ctx, env, btrfs.NewConfig())
}

func factory() backendtest.Factory {
	return backendtest.Factory{Backend: "btrfs", New: construct, FS: "btrfs"}
}

func TestConformance(t *testing.T) { backendtest.Run(t, factory()) }

func TestCrash(t *testing.T) { backendtest.Crash(t, factory()) }

func TestPowerCut(t *testing.T) { backendtest.PowerCut(t, factory()) }
