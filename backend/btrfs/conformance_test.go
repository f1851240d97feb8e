package btrfs_test

import (
	"os"
	"testing"

	"strata/backend/backendtest"
	"strata/backend/btrfs"
)

func TestMain(m *testing.M) { os.Exit(backendtest.Main(m)) }

func factory() backendtest.Factory { return backendtest.On(btrfs.Driver(), "btrfs") }

func TestConformance(t *testing.T) { backendtest.Run(t, factory()) }

func TestCrash(t *testing.T) { backendtest.Crash(t, factory()) }

func TestPowerCut(t *testing.T) { backendtest.PowerCut(t, factory()) }
