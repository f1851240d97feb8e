package graphtest

import (
	"context"
	"crypto/rand"
	"os"
	"strings"
	"testing"

	suite "github.com/docker/docker/daemon/graphdriver/graphtest"

	"strata/backend"
	"strata/backend/all"
	"strata/backend/backendtest"
)

func TestMain(m *testing.M) {
	// dockerd 26 and later want to be told that its plugins are meant to work.
	if err := os.Setenv("DOCKERD_DEPRECATED_GRAPHDRIVER_PLUGINS", "1"); err != nil {
		panic(err)
	}
	os.Exit(backendtest.Main(m))
}

const gigabyte = 1 << 30

// drivers are those of all backends, and of the smallest one that is possible.
func drivers() []backend.Driver {
	dir := backend.Driver{Name: "dir", Grounds: []backend.Ground{{FS: "ext4"}}}
	return append(all.Backends(), backend.With(dir, func() *struct{} { return nil },
		func(ctx context.Context, env backend.Env, _ *struct{}) (backend.Backend, error) {
			return backendtest.NewDir(ctx, env)
		}))
}

// eachRig runs do for every backend on every file system it is tested on, with stores that promise
// exact diffs and stores that do not.
func eachRig(t *testing.T, promises []bool, do func(t *testing.T, r *rig, g backend.Ground)) {
	for _, d := range drivers() {
		for _, g := range d.Grounds {
			for _, exact := range promises {
				t.Run(label(d, g, exact), func(t *testing.T) { do(t, newRig(t, d, g, exact), g) })
			}
		}
	}
}

func label(d backend.Driver, g backend.Ground, exact bool) string {
	name := d.Name + "-" + g.FS
	if g.Limits {
		name += "-limits"
	}
	if exact {
		name += "-exact"
	}
	return name
}

// newRig makes a file system and registers an empty store on it.
func newRig(tb testing.TB, d backend.Driver, g backend.Ground, exact bool) *rig {
	tb.Helper()
	name := label(d, g, exact) + "-" + strings.ToLower(rand.Text()) // no name is ever forgotten
	dir := backendtest.Prepare(tb, g, gigabyte)
	open := backendtest.On(d, g.FS).New
	r := &rig{name: name, dir: dir, run: tb.TempDir(), exact: exact, open: open}
	r.register(tb)
	return r
}

func TestSuite(t *testing.T) {
	eachRig(t, []bool{false, true}, func(t *testing.T, r *rig, g backend.Ground) {
		for _, tc := range []struct {
			name string
			run  func(t *testing.T)
		}{
			{"CreateEmpty", func(t *testing.T) { suite.DriverTestCreateEmpty(t, r.name) }},
			{"CreateBase", func(t *testing.T) { suite.DriverTestCreateBase(t, r.name) }},
			{"CreateSnap", func(t *testing.T) { suite.DriverTestCreateSnap(t, r.name) }},
			{"DeepLayerRead125", func(t *testing.T) { suite.DriverTestDeepLayerRead(t, 125, r.name) }},
			{"DiffApply10", func(t *testing.T) { suite.DriverTestDiffApply(t, 10, r.name) }},
			{"DiffApply1000", func(t *testing.T) { suite.DriverTestDiffApply(t, 1000, r.name) }},
			{"Changes", func(t *testing.T) { suite.DriverTestChanges(t, r.name) }},
		} {
			t.Run(tc.name, tc.run)
		}
		if g.Limits {
			t.Run("SetQuota", func(t *testing.T) { suite.DriverTestSetQuota(t, r.name, true) })
		}
	})
}

func BenchmarkSuite(b *testing.B) {
	for _, d := range drivers() {
		for _, g := range d.Grounds {
			b.Run(label(d, g, false), func(b *testing.B) {
				r := newRig(b, d, g, false)
				b.Run("Exists", func(b *testing.B) { suite.DriverBenchExists(b, r.name) })
				b.Run("GetEmpty", func(b *testing.B) { suite.DriverBenchGetEmpty(b, r.name) })
				b.Run("DiffBase", func(b *testing.B) { suite.DriverBenchDiffBase(b, r.name) })
				b.Run("DiffSmallUpper", func(b *testing.B) { suite.DriverBenchDiffN(b, 10, 10, r.name) })
				b.Run("DiffLargeLower", func(b *testing.B) { suite.DriverBenchDiffN(b, 1000, 10, r.name) })
				b.Run("DiffApply100", func(b *testing.B) { suite.DriverBenchDiffApplyN(b, 100, r.name) })
				b.Run("DeepLayerDiff20", func(b *testing.B) { suite.DriverBenchDeepLayerDiff(b, 20, r.name) })
				b.Run("DeepLayerRead20", func(b *testing.B) { suite.DriverBenchDeepLayerRead(b, 20, r.name) })
			})
		}
	}
}
