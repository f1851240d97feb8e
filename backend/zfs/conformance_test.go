package zfs_test

import (
	"context"
	"os"
	"testing"

	"strata/backend"
	"strata/backend/backendtest"
	"strata/backend/zfs"
)

func TestMain(m *testing.M) { os.Exit(backendtest.Main(m)) }

func construct(ctx context.Context, env backend.Env) (backend.Backend, error) {
	return zfs.New(ctx, env, zfs.NewConfig())
}

func factory() backendtest.Factory {
	return backendtest.Factory{Backend: "zfs", New: construct, FS: "zfs", Slow: true}
}

func TestConformance(t *testing.T) { backendtest.Run(t, factory()) }

func TestCrash(t *testing.T) { backendtest.Crash(t, factory()) }
