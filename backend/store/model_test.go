package store_test

import (
	"archive/tar"
	"bytes"
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"
	"gotest.tools/v3/assert"
	"pgregory.net/rapid"

	"strata/backend/backendtest"
	"strata/backend/internal/loopfs"
	"strata/backend/store"
)

// modelChecks is how many random sequences of about 30 operations one run tries.
const modelChecks = "25"

// TestModel plays random operations, reopening the store among them, on a store and on a map, and
// compares the two after each.
func TestModel(t *testing.T) {
	dir := loopfs.New(t, "tmpfs", 1<<30, "")
	checks := flag.Lookup("rapid.checks")
	if checks.Value.String() == checks.DefValue {
		assert.NilError(t, checks.Value.Set(modelChecks))
		defer func() { assert.Check(t, checks.Value.Set(checks.DefValue)) }()
	}
	ignored := goleak.IgnoreCurrent()
	before := backendtest.NewLedger(t, dir)
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		m := newModel(rt, filepath.Join(dir, fmt.Sprint("run", run)))
		defer m.finish()
		rt.Repeat(map[string]func(*rapid.T){
			"create": m.create, "apply": m.apply, "write": m.write, "remove": m.remove, "clone": m.clone,
			"mount": m.mount, "unmount": m.unmount, "reopen": m.reopen, "copy": m.copyByDiff, "": m.compare,
		})
	})
	before.Check(t)
	assert.NilError(t, goleak.Find(ignored))
}

// modelLayer is what the map knows of a layer.
type modelLayer struct {
	parent  string
	files   map[string]string // content by name, those of the parents included
	text    []byte            // the tar that filled it, nil if none
	sealed  bool
	written bool // has been mounted, is a clone, or was there when the store was opened
	mounts  int
	kids    int
}

type model struct {
	t      *rapid.T
	cfg    store.Config
	store  *store.Store
	layers map[string]*modelLayer
}

func newModel(t *rapid.T, root string) *model {
	m := &model{t: t, layers: map[string]*modelLayer{}}
	m.cfg = store.Config{Root: root, Backend: "dir", New: backendtest.NewDir, ExactDiffs: true}
	m.open()
	return m
}

func (m *model) open() {
	s, err := store.Open(context.Background(), m.cfg)
	assert.NilError(m.t, err)
	m.store = s
}

func (m *model) ctx() context.Context { return context.Background() }

// finish removes all layers and closes the store: whatever is mounted goes with it.
func (m *model) finish() {
	for len(m.layers) > 0 {
		for _, name := range m.names(func(l *modelLayer) bool { return l.kids == 0 }) {
			assert.NilError(m.t, m.store.Remove(m.ctx(), name))
			m.forget(name)
		}
	}
	assert.NilError(m.t, m.store.Close(m.ctx()))
	mounts, err := loopfs.MountsBelow(m.cfg.Root)
	assert.NilError(m.t, err)
	assert.Equal(m.t, len(mounts), 0, "%q", mounts)
	assert.NilError(m.t, os.RemoveAll(m.cfg.Root))
}

// names lists the layers that match, sorted.
func (m *model) names(match func(*modelLayer) bool) []string {
	var names []string
	for name, l := range m.layers {
		if match(l) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// pick draws one of the layers that match; it skips the operation if there is none.
func (m *model) pick(t *rapid.T, match func(*modelLayer) bool) (string, *modelLayer) {
	names := m.names(match)
	if len(names) == 0 {
		t.Skip("no such layer")
	}
	name := rapid.SampledFrom(names).Draw(t, "layer")
	return name, m.layers[name]
}

func anyLayer(*modelLayer) bool { return true }

// add puts a layer into the map; its parent is sealed by that.
func (m *model) add(name, parent string, files map[string]string) {
	m.layers[name] = &modelLayer{parent: parent, files: maps.Clone(files)}
	if parent != "" {
		m.layers[parent].sealed = true
		m.layers[parent].kids++
	}
}

func (m *model) forget(name string) {
	if parent := m.layers[name].parent; parent != "" {
		m.layers[parent].kids--
	}
	delete(m.layers, name)
}

func (m *model) create(t *rapid.T) {
	name := rapid.StringMatching(`[a-f]{1,2}`).Draw(t, "name")
	parent := rapid.SampledFrom(append(m.names(func(l *modelLayer) bool { return l.mounts == 0 }), "")).Draw(t, "parent")
	err := m.store.Create(m.ctx(), name, parent, store.CreateOptions{})
	if m.layers[name] != nil {
		assert.Assert(t, errdefs.IsAlreadyExists(err), "create %q again: %v", name, err)
		return
	}
	assert.NilError(t, err)
	files := map[string]string{}
	if parent != "" {
		files = m.layers[parent].files
	}
	m.add(name, parent, files)
}

// drawFiles draws names and contents.
func drawFiles(t *rapid.T) map[string]string {
	return rapid.MapOfN(rapid.StringMatching(`[a-h]`), rapid.StringN(0, 20, 60), 0, 5).Draw(t, "files")
}

func (m *model) apply(t *rapid.T) {
	name, l := m.pick(t, func(l *modelLayer) bool { return l.mounts == 0 })
	files, gone := drawFiles(t), rapid.SliceOfDistinct(rapid.StringMatching(`[a-h]`), rapid.ID[string]).Draw(t, "whiteouts")
	text := makeTar(t, files, gone)
	_, err := m.store.Apply(m.ctx(), name, bytes.NewReader(text))
	if l.sealed {
		assert.Assert(t, errdefs.IsFailedPrecondition(err), "apply to sealed %q: %v", name, err)
		return
	}
	if l.written {
		assert.Assert(t, errdefs.IsFailedPrecondition(err), "apply to written %q: %v", name, err)
		return
	}
	assert.NilError(t, err)
	for _, g := range gone {
		if _, again := files[g]; !again {
			delete(l.files, g)
		}
	}
	maps.Copy(l.files, files)
	l.text, l.sealed = text, true
}

// makeTar writes whiteouts first, then files.
func makeTar(t *rapid.T, files map[string]string, gone []string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(name, content string) {
		h := tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content)), ModTime: time.Unix(1e9, 0)}
		assert.NilError(t, w.WriteHeader(&h))
		_, err := w.Write([]byte(content))
		assert.NilError(t, err)
	}
	for _, g := range gone {
		if _, again := files[g]; !again {
			add(".wh."+g, "")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		add(name, files[name])
	}
	assert.NilError(t, w.Close())
	return b.Bytes()
}

func (m *model) write(t *rapid.T) {
	name, l := m.pick(t, anyLayer)
	files := drawFiles(t)
	l.written = true
	dir, err := m.store.Mount(m.ctx(), name, store.MountOptions{})
	assert.NilError(t, err)
	for file, content := range files {
		err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o644)
		assert.Equal(t, err != nil, l.sealed, "write to %q: %v", name, err)
		if err == nil {
			l.files[file] = content
		}
	}
	assert.NilError(t, m.store.Unmount(m.ctx(), name))
}

func (m *model) remove(t *rapid.T) {
	name, l := m.pick(t, anyLayer)
	err := m.store.Remove(m.ctx(), name)
	if l.kids > 0 {
		assert.Assert(t, errdefs.IsFailedPrecondition(err), "remove %q with children: %v", name, err)
		return
	}
	assert.NilError(t, err)
	m.forget(name)
}

func (m *model) clone(t *rapid.T) {
	template, l := m.pick(t, func(l *modelLayer) bool { return l.mounts == 0 })
	name := rapid.StringMatching(`[a-f]{1,2}`).Draw(t, "name")
	err := m.store.Clone(m.ctx(), name, template, store.CreateOptions{})
	if m.layers[name] != nil {
		assert.Assert(t, errdefs.IsAlreadyExists(err), "clone to %q: %v", name, err)
		return
	}
	assert.NilError(t, err)
	l.sealed = true
	m.add(name, l.parent, l.files)
	// The store says whether the copy can still be written.
	info, err := m.store.Stat(m.ctx(), name)
	assert.NilError(t, err)
	m.layers[name].sealed, m.layers[name].written = info.Sealed, true
}

func (m *model) mount(t *rapid.T) {
	name, l := m.pick(t, anyLayer)
	_, err := m.store.Mount(m.ctx(), name, store.MountOptions{})
	assert.NilError(t, err)
	l.mounts++
	l.written = true
}

func (m *model) unmount(t *rapid.T) {
	name, l := m.pick(t, anyLayer)
	assert.NilError(t, m.store.Unmount(m.ctx(), name))
	l.mounts = max(0, l.mounts-1)
}

// reopen: what is mounted stays so, and counts once.
func (m *model) reopen(*rapid.T) {
	assert.NilError(m.t, m.store.Close(m.ctx()))
	m.open()
	for _, l := range m.layers {
		l.mounts = min(l.mounts, 1)
		l.written = true
	}
}

// copyByDiff makes a layer from the diff of another one against nothing.
func (m *model) copyByDiff(t *rapid.T) {
	from, l := m.pick(t, anyLayer)
	name := rapid.StringMatching(`[a-f]{1,2}`).Draw(t, "name")
	if m.layers[name] != nil {
		t.Skip("name is taken")
	}
	var b bytes.Buffer
	assert.NilError(t, m.store.Diff(m.ctx(), from, "", &b))
	assert.NilError(t, m.store.Create(m.ctx(), name, "", store.CreateOptions{}))
	text := bytes.Clone(b.Bytes())
	_, err := m.store.Apply(m.ctx(), name, &b)
	assert.NilError(t, err)
	m.add(name, "", l.files)
	m.layers[name].text, m.layers[name].sealed = text, true
}

// compare holds the store to the map.
func (m *model) compare(t *rapid.T) {
	infos, err := m.store.List(m.ctx())
	assert.NilError(t, err)
	assert.Equal(t, len(infos), len(m.layers))
	for _, info := range infos {
		l := m.layers[info.Name]
		assert.Assert(t, l != nil, "unexpected layer %q", info.Name)
		assert.Equal(t, info.Parent, l.parent, info.Name)
		assert.Equal(t, info.Sealed, l.sealed, info.Name)
		assert.Equal(t, info.Mounts, l.mounts, info.Name)
		assert.Equal(t, info.Children, l.kids, info.Name)
		assert.Equal(t, info.State, store.StateReady, info.Name)
		if l.written || l.sealed {
			m.compareFiles(t, info.Name, l)
		} else { // a mount would keep Apply from filling it
			changes, err := backendtest.Collect(m.store.Changes(m.ctx(), info.Name, l.parent))
			assert.NilError(t, err)
			assert.Equal(t, len(changes), 0, "%v", changes)
		}
		if l.text != nil {
			var b bytes.Buffer
			assert.NilError(t, m.store.Diff(m.ctx(), info.Name, l.parent, &b))
			assert.Assert(t, bytes.Equal(b.Bytes(), l.text), "diff of %q", info.Name)
		}
	}
	findings, err := m.store.Check(m.ctx(), store.CheckOptions{})
	assert.NilError(t, err)
	assert.Equal(t, len(findings), 0, "%v", findings)
}

func (m *model) compareFiles(t *rapid.T, name string, l *modelLayer) {
	dir, err := m.store.Mount(m.ctx(), name, store.MountOptions{})
	assert.NilError(t, err)
	entries, err := os.ReadDir(dir)
	assert.NilError(t, err)
	got := map[string]string{}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		assert.NilError(t, err)
		got[e.Name()] = string(text)
	}
	assert.DeepEqual(t, got, l.files)
	assert.NilError(t, m.store.Unmount(m.ctx(), name))
}
