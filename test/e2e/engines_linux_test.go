package e2e

import (
	"testing"

	"strata/test/e2e/engine"
)

// forReleases runs a test for every Docker engine, side by side.
func forReleases(t *testing.T, test func(t *testing.T, s setup)) {
	t.Helper()
	fixtures(t)
	for _, r := range engine.Releases() {
		t.Run(r.Version, func(t *testing.T) {
			t.Parallel()
			test(t, setup{release: r, driver: driverName()})
		})
	}
}

// TestImages does with images what users do all day, and then removes everything.
func TestImages(t *testing.T) {
	forReleases(t, func(t *testing.T, s setup) {
		h := newHost(t, s)
		h.install(t)
		h.start(t)
		runScenarios(t, h, imageScenarios(), false)
		t.Run("prune", func(t *testing.T) { h.prune(t) })
		t.Run("export", func(t *testing.T) { testExport(t, h) })
	})
}
