package treediff_test

import (
	"iter"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/backendtest"
	"strata/backend/internal/dirfd"
	"strata/backend/internal/loopfs"
	"strata/backend/internal/treediff"
)

// TestDeep holds that no depth takes more descriptors or memory, in trees that differ in the innermost directory, and that each
// directory on the way there is listed. The directories differ in nothing.
func TestDeep(t *testing.T) {
	for name, c := range map[string]struct {
		dir           string
		levels, added int
	}{
		"many levels": {"d", 100_000, 5000},
		"long names":  {strings.Repeat("n", 250), 5000, 1000},
	} {
		t.Run(name, func(t *testing.T) {
			backendtest.Frugal(t, func(t *testing.T) string {
				dir := loopfs.New(t, "tmpfs", 0, "")
				for tree, content := range map[string]string{"upper": "1", "lower": "22", "new": ""} {
					levels := c.levels
					if content == "" { // each path is written anew
						levels = c.added
					}
					assert.NilError(t, backendtest.MkdirAll(tree)(dir))
					assert.NilError(t, backendtest.Deep(c.dir, levels, content)(filepath.Join(dir, tree)))
					sameTimes(t, filepath.Join(dir, tree), c.dir, levels)
				}
				return dir
			}, func(t *testing.T, dir string) {
				upper, lower := filepath.Join(dir, "upper"), filepath.Join(dir, "lower")
				kinds := count(t, treediff.Changes(t.Context(), upper, lower, treediff.Options{}))
				assert.DeepEqual(t, kinds, map[backend.ChangeKind]int{backend.Modified: c.levels + 1})
				kinds = count(t, treediff.Changes(t.Context(), filepath.Join(dir, "new"), "", treediff.Options{}))
				assert.DeepEqual(t, kinds, map[backend.ChangeKind]int{backend.Added: c.added + 1})
			})
		})
	}
}

// sameTimes gives all directories of a Deep the same times.
func sameTimes(t *testing.T, dir, name string, levels int) {
	t.Helper()
	root, err := dirfd.Open(dir)
	assert.NilError(t, err)
	defer root.Close()
	trail := dirfd.NewTrail(root)
	defer trail.Close()
	for range levels {
		assert.NilError(t, trail.Enter(name))
		assert.NilError(t, unix.UtimesNanoAt(trail.Dir().FD, ".", []unix.Timespec{{Sec: 1}, {Sec: 1}}, 0))
	}
}

// count counts the changes of each kind.
func count(t *testing.T, changes iter.Seq2[backend.Change, error]) map[backend.ChangeKind]int {
	t.Helper()
	kinds := map[backend.ChangeKind]int{}
	for c, err := range changes {
		assert.NilError(t, err)
		kinds[c.Kind]++
	}
	return kinds
}
