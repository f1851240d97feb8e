package zfs_test

import (
	"os"
	"testing"

	"strata/backend/backendtest"
	"strata/backend/zfs"
)

func TestMain(m *testing.M) { os.Exit(backendtest.Main(m)) }

func factory() backendtest.Factory {
	f := backendtest.On(zfs.Driver(), "zfs")
	f.Slow = true
	return f
}

func TestConformance(t *testing.T) { backendtest.Run(t, factory()) }

func TestCrash(t *testing.T) { backendtest.Crash(t, factory()) }
