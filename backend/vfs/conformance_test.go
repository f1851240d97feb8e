package vfs_test

import (
	"testing"

	"strata/backend/backendtest"
	"strata/backend/vfs"
)

func on(fs string) backendtest.Factory { return backendtest.On(vfs.Driver(), fs) }

func TestConformance(t *testing.T) { backendtest.EachGround(t, vfs.Driver(), backendtest.Run) }

func TestCrash(t *testing.T) { backendtest.Crash(t, on("tmpfs")) }

func TestPowerCut(t *testing.T) { backendtest.PowerCut(t, on("ext4")) }
