package graphtest

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
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

// ground is what a backend is tested on.
type ground struct {
	fs      string // kind of file system
	options string // to mount it with
	limits  bool   // `--storage-opt size` must work
	enable  string // command that makes it work, run with the file system's directory as its last argument
	needs   string // kernel option that the file system's options need
}

// grounds has an entry for each backend.
var grounds = map[string][]ground{
	"dir":     {{fs: "ext4"}},
	"vfs":     {{fs: "ext4"}},
	"overlay": {{fs: "ext4"}, {fs: "xfs"}, {fs: "btrfs"}, {fs: "ext4", options: "prjquota", limits: true, needs: "CONFIG_QFMT_V2"}},
	"btrfs":   {{fs: "btrfs"}, {fs: "btrfs", limits: true, enable: "btrfs quota enable"}},
	"zfs":     {{fs: "zfs", limits: true}},
}

// constructors are those of all backends, and of the smallest one that is possible.
func constructors() map[string]backendtest.Constructor {
	c := map[string]backendtest.Constructor{"dir": backendtest.NewDir}
	for _, d := range all.Backends() {
		c[d.Name] = func(ctx context.Context, env backend.Env) (backend.Backend, error) {
			return d.Open(ctx, env, d.Config())
		}
	}
	return c
}

// eachRig runs do for every backend on every file system it is tested on, with stores that promise
// exact diffs and stores that do not.
func eachRig(t *testing.T, promises []bool, do func(t *testing.T, r *rig, g ground)) {
	backends := constructors()
	for _, name := range slices.Sorted(maps.Keys(backends)) {
		if len(grounds[name]) == 0 {
			t.Errorf("backend %s: say what to test it on", name)
		}
		for _, g := range grounds[name] {
			for _, exact := range promises {
				t.Run(label(name, g, exact), func(t *testing.T) {
					do(t, newRig(t, label(name, g, exact), g, exact, backends[name]), g)
				})
			}
		}
	}
}

func label(name string, g ground, exact bool) string {
	name += "-" + g.fs
	if g.limits {
		name += "-limits"
	}
	if exact {
		name += "-exact"
	}
	return name
}

// lacks reports whether the running kernel is known to have been built without an option.
func lacks(tb testing.TB, option string) bool {
	tb.Helper()
	f, err := os.Open("/proc/config.gz")
	if err != nil {
		tb.Logf("cannot tell whether the kernel has %s: %v", option, err)
		return false
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		tb.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		tb.Fatal(err)
	}
	return bytes.Contains(b, []byte("# "+option+" is not set\n"))
}

// newRig makes a file system and registers an empty store on it.
func newRig(tb testing.TB, name string, g ground, exact bool, open backendtest.Constructor) *rig {
	tb.Helper()
	if g.needs != "" && lacks(tb, g.needs) {
		tb.Skipf("the kernel was built without %s", g.needs)
	}
	name += "-" + strings.ToLower(rand.Text()) // no name is ever forgotten
	dir := backendtest.LoopFS(tb, g.fs, gigabyte, g.options)
	if g.enable != "" {
		argv := append(strings.Fields(g.enable), dir)
		if out, err := exec.CommandContext(tb.Context(), argv[0], argv[1:]...).CombinedOutput(); err != nil {
			tb.Fatalf("%s: %v: %s", g.enable, err, out)
		}
	}
	r := &rig{name: name, dir: dir, run: tb.TempDir(), exact: exact, open: open}
	r.register(tb)
	return r
}

func TestSuite(t *testing.T) {
	eachRig(t, []bool{false, true}, func(t *testing.T, r *rig, g ground) {
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
		if g.limits {
			t.Run("SetQuota", func(t *testing.T) { suite.DriverTestSetQuota(t, r.name, true) })
		}
	})
}

func BenchmarkSuite(b *testing.B) {
	backends := constructors()
	for _, name := range slices.Sorted(maps.Keys(backends)) {
		for _, g := range grounds[name] {
			b.Run(label(name, g, false), func(b *testing.B) {
				r := newRig(b, label(name, g, false), g, false, backends[name])
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
