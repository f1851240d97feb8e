package zfs_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/backendtest"
	"strata/backend/internal/loopfs"
	"strata/backend/internal/treediff"
	"strata/backend/store"
	"strata/backend/zfs"
)

// poolSize is the size of the pools under test, bytes, all of it sparse.
const poolSize = 1 << 30

// rig is a store on a pool of its own. Its methods stop the test on any error.
type rig struct {
	testing.TB
	dir    string // where the pool is mounted
	pool   string
	config *zfs.Config
	exact  bool
	*store.Store
}

func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{TB: t, dir: loopfs.New(t, "zfs", poolSize, ""), config: zfs.NewConfig(), exact: true}
	r.pool = strings.TrimSpace(command(t, "zfs", "list", "-H", "-o", "name", r.dir))
	r.reopen()
	t.Cleanup(r.empty)
	return r
}

func (r *rig) options() store.Config {
	return store.Config{
		Root: filepath.Join(r.dir, "store"), Backend: "zfs", ExactDiffs: r.exact,
		New: func(ctx context.Context, env backend.Env) (backend.Backend, error) {
			return zfs.New(ctx, env, r.config)
		},
	}
}

// reopen opens the store, again if it is open.
func (r *rig) reopen() {
	r.Helper()
	if r.Store != nil {
		assert.NilError(r, r.Close(r.Context()))
	}
	var err error
	r.Store, err = store.Open(r.Context(), r.options())
	assert.NilError(r, err)
}

// empty removes all layers and closes the store; nothing but the pool may be left.
func (r *rig) empty() {
	ctx := context.WithoutCancel(r.Context())
	assert.Check(r, r.UnmountAll(ctx))
	list, err := r.List(ctx)
	assert.Check(r, err)
	for _, l := range list {
		assert.Check(r, r.Discard(ctx, l.Name))
	}
	r.settle()
	assert.Check(r, r.Close(ctx))
	assert.Equal(r, strings.TrimSpace(command(r, "zfs", "list", "-H", "-o", "name", "-t", "all", "-r", r.pool)), r.pool)
}

// settle waits until removed layers are deleted.
func (r *rig) settle() {
	r.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), 5*time.Minute)
	defer cancel()
	assert.NilError(r, r.Settle(ctx))
}

func (r *rig) create(name, parent string) {
	r.Helper()
	assert.NilError(r, r.Create(r.Context(), name, parent, store.CreateOptions{}))
}

func (r *rig) remove(name string) {
	r.Helper()
	assert.NilError(r, r.Remove(r.Context(), name))
}

// mounted calls f with the directory where the layer is mounted meanwhile.
func (r *rig) mounted(name string, f func(dir string)) {
	r.Helper()
	dir, err := r.Mount(r.Context(), name, store.MountOptions{})
	assert.NilError(r, err)
	defer func() { assert.NilError(r, r.Unmount(r.Context(), name)) }()
	f(dir)
}

// write applies steps to the mounted layer.
func (r *rig) write(name string, steps ...backendtest.Step) {
	r.Helper()
	r.mounted(name, func(dir string) {
		r.Helper()
		assert.NilError(r, backendtest.Steps(steps...)(dir))
	})
}

func (r *rig) id(name string) string {
	r.Helper()
	info, err := r.Stat(r.Context(), name)
	assert.NilError(r, err)
	return info.ID
}

func (r *rig) dataset(name string) string { return r.pool + "/" + r.id(name) }

// changes lists what the store finds, which looks only where ZFS says that something changed.
func (r *rig) changes(name, parent string) []string {
	r.Helper()
	list, err := backendtest.Collect(r.Changes(r.Context(), name, parent))
	assert.NilError(r, err)
	text := []string{}
	for _, c := range list {
		text = append(text, c.Kind.String()+" "+c.Path)
	}
	return text
}

// compared is the answer of a complete comparison.
func (r *rig) compared(name, parent string) []string {
	r.Helper()
	text := []string{}
	r.mounted(name, func(upper string) {
		r.mounted(parent, func(lower string) {
			for c, err := range treediff.Changes(r.Context(), upper, lower, treediff.Options{}) {
				assert.NilError(r, err)
				text = append(text, c.Kind.String()+" "+c.Path)
			}
		})
	})
	return text
}

// same fails the test unless the quick comparison says what the complete one does.
func (r *rig) same(name, parent string) {
	r.Helper()
	assert.DeepEqual(r, r.changes(name, parent), r.compared(name, parent))
}

func (r *rig) check(o store.CheckOptions) []string {
	r.Helper()
	found, err := r.Check(r.Context(), o)
	assert.NilError(r, err)
	text := []string{}
	for _, f := range found {
		text = append(text, fmt.Sprintf("%s %s: %s (%s)", f.Kind, f.Layer, f.Detail, f.Repaired))
	}
	return text
}

// command runs a program that must succeed.
func command(t testing.TB, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	assert.NilError(t, err, "%s: %s", strings.Join(args, " "), out)
	return string(out)
}

// countCommands puts programs before zfs and zpool that note each call. It returns a function that lists the calls since
// it was called last.
func countCommands(t testing.TB) func() []string {
	t.Helper()
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	for _, name := range []string{"zfs", "zpool"} {
		path, err := exec.LookPath(name)
		assert.NilError(t, err)
		script := fmt.Sprintf("#!/bin/sh\necho %s \"$1\" >>%s\nexec %s \"$@\"\n", name, log, path)
		assert.NilError(t, os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755))
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func() []string {
		text, err := os.ReadFile(log)
		if os.IsNotExist(err) {
			return nil
		}
		assert.NilError(t, err)
		assert.NilError(t, os.Remove(log))
		return strings.Split(strings.TrimSpace(string(text)), "\n")
	}
}
