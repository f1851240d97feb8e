package overlay_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/backendtest"
	"strata/backend/internal/loopfs"
	"strata/backend/internal/mount"
	"strata/backend/overlay"
)

// rig is a backend and the places where a test mounts its layers. All methods stop the test on an error.
type rig struct {
	t    *testing.T
	dir  string // on the file system under test
	env  backend.Env
	back backend.Backend
	via  mount.Mounter
	n    int // mounts so far
}

// newRig makes a backend below dir.
func newRig(t *testing.T, dir string) *rig {
	t.Helper()
	r := &rig{t: t, dir: dir, env: backend.Env{Home: filepath.Join(dir, "home")}}
	assert.NilError(t, os.MkdirAll(r.env.Home, 0o700))
	r.open()
	t.Cleanup(func() {
		below, err := mount.Below(dir)
		assert.Check(t, err)
		for _, m := range below {
			if m.Target != dir {
				t.Errorf("mount left behind: %s", m.Target)
				assert.Check(t, mount.Unmount(context.Background(), m.Target))
			}
		}
	})
	return r
}

func (r *rig) open() {
	r.t.Helper()
	b, err := overlay.New(r.t.Context(), r.env, overlay.NewConfig())
	assert.NilError(r.t, err)
	r.back = b
	r.t.Cleanup(func() {
		c, ok := b.(io.Closer)
		assert.Assert(r.t, ok)
		assert.NilError(r.t, c.Close())
	})
}

// layer makes a layer on top of another and applies a step to it.
func (r *rig) layer(id string, parent *backend.Layer, step backendtest.Step) *backend.Layer {
	r.t.Helper()
	l := &backend.Layer{ID: id}
	if parent != nil {
		l.IDMap = parent.IDMap
		l.Parents = append([]backend.Parent{{ID: parent.ID, IDMap: parent.IDMap}}, parent.Parents...)
	}
	assert.NilError(r.t, r.back.Create(r.t.Context(), *l))
	if step != nil {
		r.with(l, backend.MountOptions{}, func(dir string) { assert.NilError(r.t, step(dir)) })
	}
	return l
}

// with calls f while the layer is mounted.
func (r *rig) with(l *backend.Layer, o backend.MountOptions, f func(dir string)) {
	r.t.Helper()
	r.n++
	dir := filepath.Join(r.dir, fmt.Sprintf("mnt%d", r.n))
	assert.NilError(r.t, os.Mkdir(dir, 0o700))
	mounts, err := r.back.Mounts(r.t.Context(), *l, o)
	assert.NilError(r.t, err)
	assert.NilError(r.t, r.via.Mount(r.t.Context(), mounts, dir))
	defer func() {
		assert.Check(r.t, mount.Unmount(context.Background(), dir))
		assert.Check(r.t, os.Remove(dir))
	}()
	f(dir)
}

func (r *rig) changes(l *backend.Layer) ([]string, error) {
	r.t.Helper()
	changer, ok := r.back.(backend.Changer)
	assert.Assert(r.t, ok)
	var list []string
	for c, err := range changer.Changes(r.t.Context(), *l) {
		if err != nil {
			return nil, err
		}
		list = append(list, c.Kind.String()+" "+c.Path)
	}
	return list, nil
}

// upper is a path in the layer's own directory.
func (r *rig) upper(l *backend.Layer, name string) string {
	return filepath.Join(r.env.Home, l.ID, "diff", name)
}

func loop(t *testing.T, fs string) string {
	t.Helper()
	size := map[string]int64{"ext4": loopfs.Small("ext4"), "xfs": loopfs.Small("xfs"), "btrfs": loopfs.Small("btrfs"), "tmpfs": 64 << 20}[fs]
	return loopfs.New(t, fs, size, "")
}

// onEach runs a test on every file system that layers are kept on.
func onEach(t *testing.T, f func(t *testing.T, dir string)) {
	for _, fs := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fs, func(t *testing.T) { f(t, loop(t, fs)) })
	}
}

func owner(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	assert.NilError(t, unix.Lstat(path, &st))
	return fmt.Sprintf("%d:%d", st.Uid, st.Gid)
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	assert.NilError(t, err)
	return string(b)
}

func lines(s string) []string {
	var list []string
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" {
			list = append(list, line)
		}
	}
	return list
}
