package dirfd_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend/backendtest"
	"strata/backend/internal/dirfd"
	"strata/backend/internal/loopfs"
)

// walked lists what a walk sees, directories first by what they are called.
func walked(t *testing.T, w *dirfd.Walk, each func(path string)) []string {
	t.Helper()
	var seen []string
	for {
		e, ok, err := w.Next()
		assert.NilError(t, err)
		switch {
		case ok:
			path := filepath.Join(w.Path(), e.Name)
			seen = append(seen, path)
			each(path)
			if e.Type == unix.DT_DIR {
				assert.NilError(t, w.Enter(e.Name))
			}
		case w.Depth() == 0:
			return seen
		default:
			assert.NilError(t, w.Leave())
		}
	}
}

// bush makes directories within directories, with more files than are listed at once.
func bush(t *testing.T, dir string, depth int) {
	t.Helper()
	apply(t, dir, manyFiles(900), backendtest.MkdirAll("a"), backendtest.MkdirAll("z"))
	if depth > 0 {
		bush(t, filepath.Join(dir, "a"), depth-1)
		bush(t, filepath.Join(dir, "z"), depth-1)
	}
}

// TestWalk holds that each name is seen once, in the order of filepath.WalkDir if sorted, however few directories stay open
// and however few names are kept.
func TestWalk(t *testing.T) {
	onEach(t, func(t *testing.T, dir string) {
		bush(t, dir, 4)
		var want []string
		assert.NilError(t, filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
			if rel := strings.TrimPrefix(path, dir+"/"); rel != dir && err == nil {
				want = append(want, rel)
			}
			return err
		}))
		for _, c := range []struct{ held, keep int }{{1, 0}, {2, 1 << 20}, {100, 0}, {100, 100_000}, {100, 1 << 20}} {
			for order := range dirfd.ByInode {
				t.Run(fmt.Sprintf("order %d, held %d, kept %d", order, c.held, c.keep), func(t *testing.T) {
					root, err := dirfd.Open(dir)
					assert.NilError(t, err)
					defer root.Close()
					w := dirfd.NewWalk(root, order)
					defer w.Close()
					w.Hold(c.held)
					w.KeepNames(c.keep)
					seen := map[string]bool{}
					list := walked(t, w, func(path string) { seen[path] = true })
					assert.Equal(t, len(list), len(want))
					assert.Equal(t, len(seen), len(want))
					if order == dirfd.ByName {
						assert.DeepEqual(t, list, want)
					}
				})
			}
		}
	})
}

// TestWalkMoved moves directories away below a walk: it never leaves the tree, and finds back to what is still there.
func TestWalkMoved(t *testing.T) {
	for name, c := range map[string]struct {
		move [][2]string
		want string // where the walk goes on
		err  error
	}{
		"nothing":          {nil, "tree/a/b/c", nil},
		"the parent":       {[][2]string{{"tree/a/b/c", "tree/a/c"}}, "", nil},
		"to the outside":   {[][2]string{{"tree/a/b/c/d", "outside/d"}}, "tree/a/b/c", nil},
		"and its parent":   {[][2]string{{"tree/a/b/c/d", "outside/d"}, {"tree/a/b/c", "outside/c"}}, "tree/a/b", dirfd.ErrMoved},
		"replaced":         {[][2]string{{"tree/a/b/c/d", "outside/d"}, {"tree/a", "outside/a"}, {"other", "tree/a"}}, "tree", dirfd.ErrMoved},
		"by a link":        {[][2]string{{"tree/a/b/c/d", "outside/d"}, {"tree/a", "outside/a"}, {"link", "tree/a"}}, "tree", dirfd.ErrMoved},
		"within the tree":  {[][2]string{{"tree/a/b/c/d", "tree/d"}}, "tree/a/b/c", nil},
		"below one beside": {[][2]string{{"tree/a/b/c/d", "tree/e/d"}, {"tree/a/b", "tree/e/b"}}, "tree/a", dirfd.ErrMoved},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			apply(t, dir, backendtest.MkdirAll("tree/a/b/c/d"), backendtest.MkdirAll("tree/e"), backendtest.MkdirAll("outside"),
				backendtest.MkdirAll("other/b/c/d"), backendtest.Symlink("outside/a", "link"))
			root, err := dirfd.Open(filepath.Join(dir, "tree"))
			assert.NilError(t, err)
			defer root.Close()
			trail := dirfd.NewTrail(root)
			defer trail.Close()
			trail.Hold(1)
			for _, name := range []string{"a", "b", "c", "d"} {
				assert.NilError(t, trail.Enter(name))
			}
			for _, m := range c.move {
				apply(t, dir, backendtest.Rename(m[0], m[1]))
			}
			err = trail.Leave()
			if c.err != nil {
				assert.ErrorIs(t, err, c.err)
			} else {
				assert.NilError(t, err)
			}
			if c.want == "" { // "..", wherever it is now
				return
			}
			var is, want unix.Stat_t
			assert.NilError(t, unix.Fstat(trail.Dir().FD, &is))
			assert.NilError(t, unix.Stat(filepath.Join(dir, c.want), &want))
			assert.Equal(t, is.Ino, want.Ino)
			assert.Equal(t, filepath.Join("tree", trail.Path()), c.want)
		})
	}
}

// TestPlace holds that a directory is found again by its place.
func TestPlace(t *testing.T) {
	dir := t.TempDir()
	name := strings.Repeat("n", 250)
	apply(t, dir, backendtest.Deep(name, 100, ""))
	root, err := dirfd.Open(dir)
	assert.NilError(t, err)
	defer root.Close()
	trail := dirfd.NewTrail(root)
	defer trail.Close()
	assert.Assert(t, trail.Place() == nil)
	for range 100 {
		assert.NilError(t, trail.Enter(name))
	}
	place := trail.Place()
	assert.Equal(t, place.Path(), trail.Path())
	assert.Assert(t, trail.Place() == place)
	d, err := root.OpenPlace(place)
	assert.NilError(t, err)
	defer d.Close()
	var is, want unix.Stat_t
	assert.NilError(t, unix.Fstat(d.FD, &is))
	assert.NilError(t, unix.Fstat(trail.Dir().FD, &want))
	assert.Equal(t, is.Ino, want.Ino)
}

func TestMain(m *testing.M) { os.Exit(backendtest.Main(m)) }

// onEach runs f on each kind of file system that a store may lie on.
func onEach(t *testing.T, f func(t *testing.T, dir string)) {
	for _, kind := range []string{"ext4", "xfs", "btrfs", "tmpfs"} {
		t.Run(kind, func(t *testing.T) { f(t, loopfs.New(t, kind, 1<<30, "")) })
	}
}

func apply(t *testing.T, dir string, steps ...backendtest.Step) {
	t.Helper()
	assert.NilError(t, backendtest.Steps(steps...)(dir))
}

// manyFiles makes empty files, more than one call of getdents shows.
func manyFiles(n int) backendtest.Step {
	return func(root string) error {
		for i := range n {
			f, err := os.Create(filepath.Join(root, fmt.Sprintf("a-file-with-a-rather-long-name-%d", i)))
			if err != nil {
				return err
			}
			if err := f.Close(); err != nil {
				return err
			}
		}
		return nil
	}
}
