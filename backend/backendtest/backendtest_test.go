package backendtest_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/backendtest"
	"strata/backend/internal/loopfs"
)

func TestMain(m *testing.M) { os.Exit(backendtest.Main(m)) }

// TestConformance runs the suite on the backend that has nothing of its own.
func TestConformance(t *testing.T) {
	for _, fs := range []string{"tmpfs", "ext4"} {
		t.Run(fs, func(t *testing.T) {
			backendtest.Run(t, backendtest.Factory{Backend: "dir", New: backendtest.NewDir, FS: fs})
		})
	}
}

// TestActive runs the suite on one whose layers have to be prepared for a mount.
func TestActive(t *testing.T) {
	f := backendtest.Factory{Backend: "active", New: backendtest.NewActive, FS: "tmpfs"}
	t.Run("conformance", func(t *testing.T) { backendtest.Run(t, f) })
	t.Run("crash", func(t *testing.T) { backendtest.Crash(t, f) })
}

// TestTreesDiffer makes sure that the comparison all rows rest on sees every kind of difference.
func TestTreesDiffer(t *testing.T) {
	dir := loopfs.New(t, "tmpfs", 16<<20, "")
	when := time.Unix(1e9, 1)
	base := backendtest.Steps(
		backendtest.CreateFile("f", []byte("same"), 0o644), backendtest.SetTime("f", when),
		backendtest.CreateFile("g", []byte("same"), 0o644), backendtest.SetTime("g", when),
		backendtest.Symlink("f", "s"), backendtest.SetTime("s", when), backendtest.Mkdir("d", 0o755), backendtest.SetTime("d", when))
	changes := map[string]backendtest.Step{
		"content": backendtest.Steps(backendtest.CreateFile("f", []byte("SAME"), 0o644), backendtest.SetTime("f", when)),
		"size":    backendtest.Steps(backendtest.Append("f", []byte("x")), backendtest.SetTime("f", when)),
		"mode":    backendtest.Chmod("f", 0o600),
		"setuid":  backendtest.Chmod("f", 0o644|os.ModeSetuid),
		"owner":   backendtest.Chown("s", 1, 0),
		"group":   backendtest.Chown("d", 0, 1),
		"time":    backendtest.SetTime("f", when.Add(time.Nanosecond)),
		"target":  backendtest.Steps(backendtest.Remove("s"), backendtest.Symlink("g", "s"), backendtest.SetTime("s", when)),
		"type":    backendtest.Steps(backendtest.Remove("d"), backendtest.CreateFile("d", nil, 0o755), backendtest.SetTime("d", when)),
		"xattr":   backendtest.SetXattr("f", "trusted.x", "1"),
		"link":    backendtest.Steps(backendtest.Remove("g"), backendtest.Link("f", "g")),
		"missing": backendtest.Remove("g"),
		"more":    backendtest.CreateFile("h", nil, 0o644),
	}
	want := filepath.Join(dir, "want")
	assert.NilError(t, backendtest.Steps(backendtest.Mkdir("want", 0o755))(dir))
	assert.NilError(t, base(want))
	for what, step := range changes {
		t.Run(what, func(t *testing.T) {
			got := filepath.Join(dir, what)
			assert.NilError(t, backendtest.Mkdir(what, 0o755)(dir))
			assert.NilError(t, base(got))
			assert.Equal(t, differ(t, want, got), "")
			assert.NilError(t, step(got))
			assert.Assert(t, differ(t, want, got) != "", "not seen")
		})
	}
}

// TestDiffNamesNow explains the time that stands for now.
func TestDiffNamesNow(t *testing.T) {
	now, then := backendtest.Tree{"f": {Time: time.Now()}}.WithoutClock(), backendtest.Tree{"f": {Time: time.Unix(1e9, 0)}}
	assert.Assert(t, strings.Contains(backendtest.Diff(now, then), "1970-01-01 stands for"))
	assert.Assert(t, !strings.Contains(backendtest.Diff(backendtest.Tree{"f": {Mode: 1}}, backendtest.Tree{"f": {Mode: 2}}), "stands for"))
}

func differ(t *testing.T, want, got string) string {
	t.Helper()
	a, err := backendtest.ReadTree(want)
	assert.NilError(t, err)
	b, err := backendtest.ReadTree(got)
	assert.NilError(t, err)
	return backendtest.Diff(a, b)
}

// TestChanges holds the slow and obvious comparison to what package backend says about a Change.
func TestChanges(t *testing.T) {
	dir, file := backendtest.Entry{Mode: os.ModeDir | 0o755}, backendtest.Entry{Mode: 0o644}
	odd := backendtest.Entry{Mode: 0o600}
	for _, c := range []struct {
		name          string
		parent, child backendtest.Tree
		want          string
	}{
		{"nothing", backendtest.Tree{".": dir, "f": file}, backendtest.Tree{".": dir, "f": file}, ""},
		{"root only", backendtest.Tree{".": dir}, backendtest.Tree{".": odd}, ""},
		{"added tree", backendtest.Tree{".": dir}, backendtest.Tree{".": dir, "d": dir, "d/f": file}, "A /d, A /d/f"},
		{"holder is modified", backendtest.Tree{"a": dir, "a/b": dir}, backendtest.Tree{"a": dir, "a/b": dir, "a/b/c": file}, "C /a, C /a/b, A /a/b/c"},
		{"deleted tree", backendtest.Tree{"a": dir, "a/b": dir, "a/b/c": file}, backendtest.Tree{"a": dir}, "C /a, D /a/b"},
		{"opaque", backendtest.Tree{"a": dir, "a/old": dir, "a/old/x": file, "a/s": file}, backendtest.Tree{"a": dir, "a/s": odd, "a/n": file}, "C /a, A /a/n, D /a/old, C /a/s"},
		{"directory to file", backendtest.Tree{"a": dir, "a/x": file}, backendtest.Tree{"a": file}, "C /a"},
		{"file to directory", backendtest.Tree{"a": file}, backendtest.Tree{"a": dir, "a/x": file}, "C /a, A /a/x"},
		{"order", backendtest.Tree{}, backendtest.Tree{"a": dir, "a/z": file, "a-b": file, "a.b": file}, "A /a, A /a/z, A /a-b, A /a.b"},
	} {
		t.Run(c.name, func(t *testing.T) { assert.Equal(t, show(backendtest.Changes(c.parent, c.child)), c.want) })
	}
}

func show(list []backend.Change) string {
	var words []string
	for _, c := range list {
		words = append(words, c.Kind.String()+" "+c.Path)
	}
	return strings.Join(words, ", ")
}

// TestGenerators: the same seed makes the same tree, another seed another one.
func TestGenerators(t *testing.T) {
	dir := loopfs.New(t, "tmpfs", 64<<20, "")
	for name, seed := range map[string]uint64{"a": 1, "b": 1, "c": 2} {
		assert.NilError(t, backendtest.Mkdir(name, 0o755)(dir))
		assert.NilError(t, backendtest.Steps(backendtest.Root(seed, 300), backendtest.Churn(seed, 50, 300))(filepath.Join(dir, name)))
	}
	a, err := backendtest.ReadTree(filepath.Join(dir, "a"))
	assert.NilError(t, err)
	b, err := backendtest.ReadTree(filepath.Join(dir, "b"))
	assert.NilError(t, err)
	assert.Assert(t, len(a) > 250)
	assert.Equal(t, backendtest.Diff(a.WithoutClock(), b.WithoutClock()), "")
	assert.Assert(t, differ(t, filepath.Join(dir, "a"), filepath.Join(dir, "c")) != "")
}

// TestLedger makes sure that a leak is seen: the checks of all rows rest on it.
func TestLedger(t *testing.T) {
	dir := loopfs.New(t, "tmpfs", 1<<20, "")
	before := backendtest.NewLedger(t, dir)
	left, err := before.Left()
	assert.NilError(t, err)
	assert.Equal(t, len(left), 0, "%q", left)
	f, err := os.Create(filepath.Join(dir, "open"))
	assert.NilError(t, err)
	left, err = before.Left()
	assert.NilError(t, err)
	assert.DeepEqual(t, left, []string{"descriptor " + f.Name()})
	assert.NilError(t, f.Close())
	before.Check(t)
}
