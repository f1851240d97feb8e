package main

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"strata/backend/backendtest"
	"strata/test/e2e/engine"
)

func TestMain(m *testing.M) { os.Exit(backendtest.Main(m)) }

// TestSoak soaks each backend for a while. With -short, some for less.
func TestSoak(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: boots a machine with a file system of its own")
	}
	strata := filepath.Join(t.TempDir(), "strata")
	out, err := exec.CommandContext(t.Context(), "go", "build", buildFlags, "-o", strata, "strata").CombinedOutput()
	assert.NilError(t, err, "%s", out)
	const rss = "1024" // MiB; a tenth of it without the race detector
	names, duration := []string{"overlay-ext4", "vfs-ext4", "overlay-xfs", "btrfs"}, 20*time.Second
	if testing.Short() {
		duration /= 3
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			o, err := parse([]string{"-on", name, "-strata", strata, "-duration", duration.String(), "-rss", rss})
			assert.NilError(t, err)
			s, err := soak(t.Context(), o)
			assert.NilError(t, err)
			var text bytes.Buffer
			assert.NilError(t, s.report.write(&text, o))
			t.Log(text.String())
			assert.Assert(t, !s.report.lost())
			for _, trouble := range strings.Split(o.troubles, ",") {
				assert.Check(t, s.report.counts["troubles, "+trouble] > 0, "no %s", trouble)
			}
			assert.Assert(t, s.report.counts["layers verified"] > 0)
		})
	}
}

// TestLossesShow in the report, and in whether it speaks of some.
func TestLossesShow(t *testing.T) {
	r := newReport()
	assert.Assert(t, !r.lost())
	r.lose(lossGone, "layer %s", "x")
	assert.Assert(t, r.lost())
	var text bytes.Buffer
	assert.NilError(t, r.write(&text, options{}))
	assert.Assert(t, bytes.Contains(text.Bytes(), []byte("layer x")))
}

// TestChangesFollowFromTheSeed and describe what they make.
func TestChangesFollowFromTheSeed(t *testing.T) {
	below := engine.Manifest{}
	for i := range uint64(50) {
		a, err := newChange(rand.New(rand.NewPCG(i, 0)), below)
		assert.NilError(t, err)
		b, err := newChange(rand.New(rand.NewPCG(i, 0)), below)
		assert.NilError(t, err)
		assert.Equal(t, a.digest, b.digest)
		assert.Equal(t, difference(a.tree, b.tree), "")
		own, err := engine.ReadManifest(bytes.NewReader(a.tar))
		assert.NilError(t, err)
		assert.Assert(t, len(own) > 0)
		below = a.tree
	}
	assert.Assert(t, difference(below, engine.Manifest{}) != "")
}
