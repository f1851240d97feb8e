package backendtest

import (
	"io"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"strata/backend/internal/loopfs"
	"strata/backend/store"
)

// Levels of RunDeep. Each path is written out in the tar, so that it has more than a hundred megabytes.
const (
	deepName   = 250
	deepLevels = 1000
)

// RunDeep holds that the store works with a layer of any depth with few descriptors and little memory.
func RunDeep(t *testing.T, f Factory) {
	t.Helper()
	Frugal(t, func(t *testing.T) string {
		t.Helper()
		dir := filepath.Join(loopfs.New(t, f.FS, suiteSize, f.MountOptions), "row")
		r := newRig(t, f, dir, nil)
		r.create("base", "")
		r.write("base", CreateFile("file", []byte("x"), 0o644))
		r.create("deep", "base")
		r.write("deep", Deep(strings.Repeat("n", deepName), deepLevels, "x"))
		r.close()
		return dir
	}, func(t *testing.T, dir string) {
		t.Helper()
		r := &rig{t: t, f: f, dir: dir, cfg: store.Config{Root: filepath.Join(dir, "store"), Backend: f.Backend, ExactDiffs: true}}
		r.cfg.New = r.construct
		r.open()
		useDeep(r)
		assert.NilError(t, removeAll(r.ctx(), r.store))
		r.close()
	})
}

// useDeep does what is done with layers.
func useDeep(r *rig) {
	r.t.Helper()
	u, err := r.store.Usage(r.ctx(), "deep")
	assert.NilError(r.t, err)
	assert.Assert(r.t, u.Inodes == 0 || u.Inodes > deepLevels, "%d inodes", u.Inodes)
	changes := 0
	for _, err := range r.store.Changes(r.ctx(), "deep", "base") {
		assert.NilError(r.t, err)
		changes++
	}
	assert.Equal(r.t, changes, deepLevels+1)
	size, err := r.store.DiffSize(r.ctx(), "deep", "base")
	assert.NilError(r.t, err)
	assert.Equal(r.t, size, int64(1))
	assert.NilError(r.t, r.store.Diff(r.ctx(), "deep", "base", io.Discard))
	r.create("child", "deep")
	list, err := Collect(r.store.Changes(r.ctx(), "child", "deep"))
	assert.NilError(r.t, err)
	assert.Equal(r.t, len(list), 0, "a new layer has changes")
	found, err := r.store.Check(r.ctx(), store.CheckOptions{Deep: true})
	assert.NilError(r.t, err)
	assert.Equal(r.t, len(found), 0, "%v", found)
}
