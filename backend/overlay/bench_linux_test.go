package overlay_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/backendtest"
	"strata/backend/internal/loopfs"
	"strata/backend/internal/mount"
	"strata/backend/overlay"
)

// bench makes a backend on a fresh ext4.
func bench(b *testing.B) (string, backend.Env, backend.Backend) {
	b.Helper()
	dir := loopfs.New(b, "ext4", 1<<30, "")
	env := backend.Env{Home: filepath.Join(dir, "home")}
	assert.NilError(b, os.Mkdir(env.Home, 0o700))
	back, err := overlay.New(b.Context(), env, overlay.NewConfig())
	assert.NilError(b, err)
	return dir, env, back
}

// chain makes layers on top of each other and returns the topmost.
func chain(b *testing.B, back backend.Backend, depth int) backend.Layer {
	b.Helper()
	var l backend.Layer
	for i := range depth {
		parents := l.Parents
		if i > 0 {
			parents = append([]backend.Parent{{ID: l.ID}}, parents...)
		}
		l = backend.Layer{ID: fmt.Sprintf("%064d", i), Parents: parents}
		assert.NilError(b, back.Create(b.Context(), l))
	}
	return l
}

// BenchmarkMount is a layer's mount and unmount, by the number of layers.
func BenchmarkMount(b *testing.B) {
	for _, depth := range []int{2, 10, 125} {
		for name, via := range map[string]mount.Mounter{"descriptors": {}, "classic": {Classic: true}} {
			b.Run(fmt.Sprintf("%d/%s", depth, name), func(b *testing.B) {
				dir, _, back := bench(b)
				l := chain(b, back, depth)
				target := filepath.Join(dir, "target")
				assert.NilError(b, os.Mkdir(target, 0o700))
				for b.Loop() {
					mounts, err := back.Mounts(b.Context(), l, backend.MountOptions{})
					assert.NilError(b, err)
					assert.NilError(b, via.Mount(b.Context(), mounts, target))
					assert.NilError(b, mount.Unmount(b.Context(), target))
				}
			})
		}
	}
}

// BenchmarkChanges lists 20 changed and 10 deleted files above many.
func BenchmarkChanges(b *testing.B) {
	for _, files := range []int{1000, 60000} {
		b.Run(fmt.Sprint(files), func(b *testing.B) {
			_, env, back := bench(b)
			l := chain(b, back, 2)
			name := func(id string, i int) string {
				return filepath.Join(env.Home, id, "diff", fmt.Sprintf("d%d", i%300), fmt.Sprintf("f%d", i))
			}
			for i := range 300 {
				assert.NilError(b, os.Mkdir(filepath.Dir(name(l.Parent(), i)), 0o755))
			}
			for i := range files {
				assert.NilError(b, os.WriteFile(name(l.Parent(), i), nil, 0o644))
			}
			for i := range 30 {
				assert.NilError(b, os.MkdirAll(filepath.Dir(name(l.ID, i)), 0o755))
				if i < 20 {
					assert.NilError(b, os.WriteFile(name(l.ID, i), []byte("changed"), 0o644))
				} else {
					assert.NilError(b, backendtest.CharDevice(name(l.ID, i), 0, 0, 0)("/"))
				}
			}
			changer, ok := back.(backend.Changer)
			assert.Assert(b, ok)
			for b.Loop() {
				n := 0
				for _, err := range changer.Changes(b.Context(), l) {
					assert.NilError(b, err)
					n++
				}
				assert.Equal(b, n, 60, "30 files and the directories they are in")
			}
		})
	}
}

// BenchmarkCreate makes and removes a layer.
func BenchmarkCreate(b *testing.B) {
	_, _, back := bench(b)
	parent := chain(b, back, 60)
	l := backend.Layer{ID: "new", Parents: append([]backend.Parent{{ID: parent.ID}}, parent.Parents...)}
	for b.Loop() {
		assert.NilError(b, back.Create(b.Context(), l))
		assert.NilError(b, back.Remove(b.Context(), l))
	}
}
