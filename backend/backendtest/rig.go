package backendtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp/cmpopts"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"strata/backend"
	"strata/backend/internal/loopfs"
	"strata/backend/store"
)

// rig is one row's store and the backend under it. Its methods stop the test on any error.
type rig struct {
	t     *testing.T
	f     Factory
	dir   string // holds the store and what else the row needs on that file system
	cfg   store.Config
	store *store.Store
	back  backend.Backend
	env   backend.Env
	home  []string // what the backend's directory held before the first layer
	plain int      // plain directories made so far
}

func newRig(t *testing.T, f Factory, dir string, config func(*store.Config)) *rig {
	t.Helper()
	r := &rig{t: t, f: f, dir: dir}
	assert.NilError(t, os.Mkdir(dir, 0o755))
	r.cfg = store.Config{Root: filepath.Join(dir, "store"), Backend: f.Backend, ExactDiffs: true}
	if config != nil {
		config(&r.cfg)
	}
	r.cfg.New = r.construct
	r.open()
	r.home = r.listHome()
	return r
}

// construct notes the backend on its way into the store.
func (r *rig) construct(ctx context.Context, env backend.Env) (backend.Backend, error) {
	b, err := r.f.New(ctx, env)
	r.back, r.env = b, env
	return b, err
}

func (r *rig) ctx() context.Context { return r.t.Context() }

func (r *rig) open() {
	r.t.Helper()
	s, err := store.Open(r.ctx(), r.cfg)
	assert.NilError(r.t, err, "open store")
	r.store = s
}

func (r *rig) close() {
	r.t.Helper()
	assert.NilError(r.t, r.store.Close(context.WithoutCancel(r.ctx())), "close store")
	r.store = nil
}

func (r *rig) reopen() {
	r.t.Helper()
	r.close()
	r.open()
}

// abandon is the clean-up of a test that may have stopped anywhere: what it left open would keep
// the file system busy.
func (r *rig) abandon() {
	if r.store == nil {
		return
	}
	ctx := context.WithoutCancel(r.ctx())
	if err := errors.Join(removeAll(ctx, r.store), r.store.Close(ctx)); err != nil {
		r.t.Logf("clean up after a failure: %v", err)
	}
}

// finish checks what must be true after every row, and cleans up.
func (r *rig) finish() {
	r.t.Helper()
	if r.store == nil { // the row failed between close and open
		return
	}
	r.checkClean()
	if err := removeAll(context.WithoutCancel(r.ctx()), r.store); err != nil {
		r.t.Errorf("remove all layers: %v", err)
	}
	r.close()
	mounts, err := loopfs.MountsBelow(r.cfg.Root)
	if err != nil || len(mounts) > 0 {
		r.t.Errorf("mounts left in the store: %q, %v", mounts, err)
		return
	}
	if left := surplus(r.home, r.listHome(), ""); len(left) > 0 {
		r.t.Errorf("files left in the backend's directory: %q", left)
	}
	if err := os.RemoveAll(r.dir); err != nil {
		r.t.Errorf("remove row's directory: %v", err)
	}
}

// checkClean fails the test if the store's own check finds anything.
func (r *rig) checkClean() {
	r.t.Helper()
	findings, err := r.store.Check(context.WithoutCancel(r.ctx()), store.CheckOptions{Deep: true})
	if err != nil {
		r.t.Errorf("check store: %v", err)
	}
	for _, f := range findings {
		r.t.Errorf("check found %s: layer %q: %s", f.Kind, f.Layer, f.Detail)
	}
}

// removeAll removes all layers of a store, children first, and waits until their data is deleted.
func removeAll(ctx context.Context, s *store.Store) error {
	for {
		layers, err := s.List(ctx)
		if err != nil {
			return err
		}
		removed := 0
		for _, l := range layers {
			if l.Children > 0 || l.Store != "" {
				continue
			}
			if err := s.Remove(ctx, l.Name); err != nil {
				return err
			}
			removed++
		}
		if removed == 0 {
			return awaitDeletions(ctx, s)
		}
	}
}

// deletionPatience bounds the store's background deletion of a test's layers.
const deletionPatience = 10 * time.Minute

func awaitDeletions(ctx context.Context, s *store.Store) error {
	ctx, cancel := context.WithTimeout(ctx, deletionPatience)
	defer cancel()
	return s.Settle(ctx)
}

// listHome lists all that lies in the backend's directory, and all datasets where layers are datasets.
func (r *rig) listHome() []string {
	r.t.Helper()
	var names []string
	err := filepath.WalkDir(r.env.Home, func(path string, _ fs.DirEntry, err error) error {
		names = append(names, path)
		return err
	})
	assert.NilError(r.t, err)
	if r.f.FS == "zfs" {
		names = append(names, loopfs.Datasets(r.t, r.env.UUID)...)
	}
	return names
}

func (r *rig) create(name, parent string) {
	r.t.Helper()
	assert.NilError(r.t, r.store.Create(r.ctx(), name, parent, store.CreateOptions{}), "create %s", name)
}

func (r *rig) remove(name string) {
	r.t.Helper()
	assert.NilError(r.t, r.store.Remove(r.ctx(), name), "remove %s", name)
}

func (r *rig) mount(name string) string {
	r.t.Helper()
	dir, err := r.store.Mount(r.ctx(), name, store.MountOptions{})
	assert.NilError(r.t, err, "mount %s", name)
	return dir
}

func (r *rig) unmount(name string) {
	r.t.Helper()
	assert.NilError(r.t, r.store.Unmount(r.ctx(), name), "unmount %s", name)
}

// mounted calls f with the directory where the layer is mounted meanwhile.
func (r *rig) mounted(name string, f func(dir string)) {
	r.t.Helper()
	dir := r.mount(name)
	defer r.unmount(name)
	f(dir)
}

// write applies steps to the mounted layer.
func (r *rig) write(name string, steps ...Step) {
	r.t.Helper()
	r.mounted(name, func(dir string) {
		r.t.Helper()
		assert.NilError(r.t, Steps(steps...)(dir), "write to %s", name)
	})
}

// tree reads the mounted layer.
func (r *rig) tree(name string) (t Tree) {
	r.t.Helper()
	r.mounted(name, func(dir string) {
		r.t.Helper()
		t = r.readTree(dir)
	})
	return t
}

func (r *rig) readTree(dir string) Tree {
	r.t.Helper()
	t, err := ReadTree(dir)
	assert.NilError(r.t, err)
	return t
}

func (r *rig) stat(name string) store.Info {
	r.t.Helper()
	info, err := r.store.Stat(r.ctx(), name)
	assert.NilError(r.t, err, "stat %s", name)
	return info
}

func (r *rig) diff(name, parent string) []byte {
	r.t.Helper()
	var b bytes.Buffer
	assert.NilError(r.t, r.store.Diff(r.ctx(), name, parent, &b), "diff %s against %q", name, parent)
	return b.Bytes()
}

func (r *rig) apply(name string, archive []byte) int64 {
	r.t.Helper()
	// A reader with no other method than Read: what arrives from a socket.
	n, err := r.store.Apply(r.ctx(), name, struct{ io.Reader }{bytes.NewReader(archive)})
	assert.NilError(r.t, err, "apply to %s", name)
	return n
}

// fill creates a layer from an archive.
func (r *rig) fill(name, parent string, archive []byte) {
	r.t.Helper()
	r.create(name, parent)
	r.apply(name, archive)
}

func (r *rig) changes(name, parent string) []backend.Change {
	r.t.Helper()
	c, err := Collect(r.store.Changes(r.ctx(), name, parent))
	assert.NilError(r.t, err, "changes of %s against %q", name, parent)
	return c
}

// sameChanges fails the test if two lists of changes differ; none at all may be nil or empty.
func (r *rig) sameChanges(want, got []backend.Change) {
	r.t.Helper()
	assert.Assert(r.t, cmp.DeepEqual(want, got, cmpopts.EquateEmpty()))
}

// newPlain makes a plain directory as empty as a base layer is.
func (r *rig) newPlain() string {
	r.t.Helper()
	r.plain++
	dir := filepath.Join(r.dir, "plain"+string(rune('a'+r.plain)))
	assert.NilError(r.t, os.Mkdir(dir, 0o755))
	return dir
}

// same fails the test if two trees differ.
func (r *rig) same(want, got Tree, what string) {
	r.t.Helper()
	if d := Diff(want, got); d != "" {
		r.t.Fatalf("%s: trees differ: %s", what, d)
	}
}

// layer returns how the store describes a layer to its backend.
func (r *rig) layer(name string) backend.Layer {
	r.t.Helper()
	info := r.stat(name)
	l := backend.Layer{ID: info.ID, Limit: info.Limit, IDMap: info.IDMap, Sealed: info.Sealed}
	for info.Parent != "" {
		info = r.stat(info.Parent)
		l.Parents = append(l.Parents, backend.Parent{ID: info.ID, IDMap: info.IDMap})
	}
	return l
}

// names lists the store's layers.
func (r *rig) names() []string {
	r.t.Helper()
	layers, err := r.store.List(r.ctx())
	assert.NilError(r.t, err)
	names := make([]string, len(layers))
	for i, l := range layers {
		names[i] = l.Name
	}
	sort.Strings(names)
	return names
}
