package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"gotest.tools/v3/assert"

	"strata/test/e2e/engine"
)

// images are the archives and build products that all tests share.
type images struct {
	cache   *engine.Cache
	dir     string
	debian  *engine.Layer
	busybox *engine.Layer
	many    *engine.Layer
	plugins []string // directories for docker plugin create: two versions of Strata
}

// strata returns the path of the binary.
func (i *images) strata() string { return filepath.Join(i.plugins[0], "rootfs", "strata") }

// archive returns the path of the archive that WriteImage made of the layers called name.
func (i *images) archive(name string) string { return filepath.Join(i.dir, name+".tar") }

// fixtureList says what is in a directory of fixtures. It is written last, so that one without is not whole.
type fixtureList struct {
	Debian, Busybox, Many *engine.Layer
	Plugins               []string
}

const fixtureFile = "fixtures.json"

// shared makes the fixtures at the first call. They live in a directory that TestMain removes, or
// in that of STRATA_E2E_FIXTURES.
type shared struct {
	once sync.Once
	dir  string
	made *images
	err  error
}

var all = &shared{} //nolint:gochecknoglobals // testing.M has no other way to hand something to tests

// fixtures returns what the tests share, or skips the test where it cannot run.
func fixtures(t *testing.T) *images {
	t.Helper()
	if os.Getenv("STRATA_E2E") == "" {
		t.Skip("needs minutes, root and real daemons: set STRATA_E2E=1, as scripts/test e2e does")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	all.once.Do(func() { all.made, all.err = openFixtures(t, all.dir) })
	assert.NilError(t, all.err)
	return all.made
}

func TestMain(m *testing.M) {
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	if all.dir = os.Getenv("STRATA_E2E_FIXTURES"); all.dir != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("/var/tmp", "strata-e2e-fixtures-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	all.dir = dir
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// TestFixtures makes what all tests share, for those that run where it cannot be made: see doc.go.
func TestFixtures(t *testing.T) {
	f := fixtures(t)
	for _, name := range []string{"busybox", "debian", "many"} {
		_, err := os.Stat(f.archive(name))
		assert.NilError(t, err)
	}
}

// openFixtures reads what is in the directory, or makes it.
func openFixtures(t *testing.T, dir string) (*images, error) {
	t.Helper()
	cache, err := engine.OpenCache()
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, fixtureFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		i, err := makeFixtures(t, cache, dir)
		if err != nil {
			return nil, err
		}
		if b, err = json.Marshal(fixtureList{i.debian, i.busybox, i.many, i.plugins}); err != nil {
			return nil, err
		}
		return i, os.WriteFile(path, b, 0o600)
	}
	if err != nil {
		return nil, err
	}
	var l fixtureList
	if err := json.Unmarshal(b, &l); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return &images{cache, dir, l.Debian, l.Busybox, l.Many, l.Plugins}, nil
}

func makeFixtures(t *testing.T, cache *engine.Cache, dir string) (i *images, err error) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	i = &images{cache: cache, dir: dir}
	if i.debian, err = engine.DebianRoot(t.Context(), cache); err != nil {
		return nil, err
	}
	if i.busybox, err = engine.WriteLayer(filepath.Join(dir, "busybox.layer"), engine.FillBusybox); err != nil {
		return nil, err
	}
	if i.many, err = engine.WriteLayer(filepath.Join(dir, "many.layer"), engine.FillMany("many", 5000)); err != nil {
		return nil, err
	}
	for name, layers := range map[string][]*engine.Layer{
		"busybox": {i.busybox}, "debian": {i.debian}, "many": {i.busybox, i.many},
	} {
		if err := engine.WriteImage(i.archive(name), name+":latest", layers...); err != nil {
			return nil, err
		}
	}
	if driverName() != "strata" {
		return i, nil
	}
	root, err := engine.SourceRoot()
	if err != nil {
		return nil, err
	}
	for _, version := range []string{"e2e-1", "e2e-2"} {
		plugin := filepath.Join(dir, version)
		if err := engine.BuildPlugin(t.Context(), root, version, plugin); err != nil {
			return nil, err
		}
		i.plugins = append(i.plugins, plugin)
	}
	return i, nil
}

// manifest returns what the layers hold when stacked; none of them deletes anything.
func manifest(t *testing.T, layers ...*engine.Layer) engine.Manifest {
	t.Helper()
	sum := make(engine.Manifest)
	for _, l := range layers {
		f, err := os.Open(l.Path)
		assert.NilError(t, err)
		m, err := engine.ReadManifest(f)
		assert.NilError(t, err)
		assert.NilError(t, f.Close())
		for p, line := range m {
			sum[p] = line
		}
	}
	return sum.Without()
}
