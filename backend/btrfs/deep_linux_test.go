package btrfs_test

import (
	"testing"

	"strata/backend/backendtest"
)

func TestDeep(t *testing.T) { backendtest.RunDeep(t, factory()) }
