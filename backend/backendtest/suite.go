package backendtest

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"strata/backend"
	"strata/backend/internal/loopfs"
	"strata/backend/store"
)

// Constructor makes a backend, as store.Config.New does.
type Constructor func(ctx context.Context, env backend.Env) (backend.Backend, error)

// Factory says which backend to test, and on what.
type Factory struct {
	Backend      string // its name, as recorded in a store
	New          Constructor
	FS           string // the file system below the stores: "ext4", "xfs", "btrfs" or "tmpfs"
	MountOptions string // for it, as for mount -o
	// Thorough makes Crash stop at each failpoint every time it is passed, not only the first time,
	// the last time and two times between. With go test -short it is the first and the last in any case.
	Thorough bool
	// Slow says that starting a process takes long, as in an emulated machine, and that the backend starts many. Crash then
	// stops at each failpoint once, returns errors from the backend's own only, and kills the recovery from one crash.
	Slow bool
}

// On returns a driver as it is by default, to be tested on a kind of file system.
func On(d backend.Driver, fs string) Factory {
	return Factory{Backend: d.Name, FS: fs, New: func(ctx context.Context, env backend.Env) (backend.Backend, error) {
		return d.Open(ctx, env, d.Config())
	}}
}

// EachGround tests a driver on each of its file systems that needs no options.
func EachGround(t *testing.T, d backend.Driver, test func(t *testing.T, f Factory)) {
	t.Helper()
	for _, g := range d.Grounds {
		if g.MountOptions == "" && g.Enable == "" {
			t.Run(g.FS, func(t *testing.T) { test(t, On(d, g.FS)) })
		}
	}
}

// suiteSize is the size of the file system that all rows of one run share, one after the other.
const suiteSize = 4 << 30

// row is one test: run is given a new, empty store.
type row struct {
	name   string
	config func(*store.Config) // changes the store's configuration, nil for none
	run    func(r *rig)
}

// rows returns the whole suite.
func rows() []row {
	var all []row
	for _, part := range [][]row{
		treeRows(), archiveRows(), acceptRows(), diffRows(), touchRows(), lifeRows(), abilityRows(), snapshotRows(), contractRows(),
		markRows(), accessRows(), inheritRows(), troubleRows(), parallelRows(),
		{{name: "sink", run: sinkRow}},
	} {
		all = append(all, part...)
	}
	return all
}

// Run runs the conformance suite. It skips the test if it does not run as root.
func Run(t *testing.T, f Factory) {
	t.Helper()
	dir := loopfs.New(t, f.FS, suiteSize, f.MountOptions)
	leaks := goleak.IgnoreCurrent()
	for i, w := range rows() {
		t.Run(strings.ReplaceAll(w.name, " ", "-"), func(t *testing.T) {
			runRow(t, f, filepath.Join(dir, rowDir(i)), w)
		})
	}
	t.Run("disk-full", func(t *testing.T) { runDiskFull(t, f) })
	if err := goleak.Find(leaks); err != nil {
		t.Errorf("goroutines left behind: %v", err)
	}
}

// rowDir names a row's directory. Colons and commas have a meaning in mount options, blanks in
// /proc/mounts: no backend may mind them.
func rowDir(i int) string { return fmt.Sprintf("row:%d, x", i) }

func runRow(t *testing.T, f Factory, dir string, w row) {
	t.Helper()
	before := NewLedger(t, dir)
	r := newRig(t, f, dir, w.config)
	func() {
		defer r.finish()
		w.run(r)
	}()
	before.Check(t)
}
