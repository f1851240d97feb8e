package overlay_test

import (
	"testing"

	"strata/backend/backendtest"
)

func TestDeep(t *testing.T) { backendtest.RunDeep(t, on("ext4")) }
