package backendtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"gotest.tools/v3/assert"

	"strata/backend/store"
)

// diffRows are about Diff, Changes and DiffSize between any two layers, and about streams.
func diffRows() []row {
	return []row{
		{name: "diff against an ancestor", run: diffAncestor},
		{name: "diff against a stranger", run: diffStranger},
		{name: "diff against nothing", run: diffNothing},
		{name: "diff of a mounted layer", run: diffMounted},
		{name: "diff errors", run: diffErrors},
		{name: "diff size", run: diffSize},
		{name: "diff piped into apply", run: diffPiped},
		{name: "diff in path order", run: diffOrder},
		{name: "random changes", run: randomChanges},
		{name: "changes after apply", run: changesAfterApply},
	}
}

// threeLayers makes base, middle and top.
func threeLayers(r *rig) {
	r.t.Helper()
	r.create("base", "")
	r.write("base", aSmallTree())
	r.create("middle", "base")
	r.write("middle", Remove("etc/passwd"), CreateFile("m", []byte("m"), 0o644), Append("etc/shadow", []byte("x\n")))
	r.create("top", "middle")
	r.write("top", CreateFile("etc/passwd", []byte("again"), 0o600), Replace("usr", 0o755), Remove("m"))
}

func diffAncestor(r *rig) {
	threeLayers(r)
	r.fill("copy", "base", r.diff("top", "base"))
	r.same(rootless(r.tree("top")), rootless(r.tree("copy")), "top applied to base")
	r.sameChanges(Changes(r.tree("base"), r.tree("top")), r.changes("top", "base"))
}

func diffStranger(r *rig) {
	threeLayers(r)
	r.create("other", "")
	r.write("other", CreateFile("own", nil, 0o644), MkdirAll("etc/conf.d"))
	r.fill("copy", "other", r.diff("top", "other"))
	r.same(rootless(r.tree("top")), rootless(r.tree("copy")), "top applied to a stranger")
	r.sameChanges(Changes(r.tree("other"), r.tree("top")), r.changes("top", "other"))
	// A child is a stranger to its parent as well.
	r.sameChanges(Changes(r.tree("top"), r.tree("base")), r.changes("base", "top"))
}

func diffNothing(r *rig) {
	threeLayers(r)
	r.fill("copy", "", r.diff("top", ""))
	r.same(rootless(r.tree("top")), rootless(r.tree("copy")), "top against nothing")
	r.sameChanges(Changes(Tree{".": {}}, r.tree("top")), r.changes("top", ""))
	assert.Equal(r.t, len(r.changes("top", "top")), 0)
}

// diffMounted is docker commit: the layer stays mounted meanwhile.
func diffMounted(r *rig) {
	threeLayers(r)
	r.create("rw", "top")
	r.mounted("rw", func(dir string) {
		assert.NilError(r.t, CreateFile("new", []byte("n"), 0o644)(dir))
		text := r.diff("rw", "top")
		names, err := memberNames(text)
		assert.NilError(r.t, err)
		assert.Assert(r.t, contains(names, "new"), "%q", names)
		assert.NilError(r.t, CreateFile("newer", []byte("n"), 0o644)(dir))
		r.fill("commit", "top", r.diff("rw", "top"))
		r.same(r.readTree(dir), r.tree("commit"), "committed layer")
	})
}

func contains(names []string, name string) bool {
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}

// diffErrors: an error known before the first byte leaves the writer untouched.
func diffErrors(r *rig) {
	r.create("l", "")
	r.write("l", CreateFile("f", Noise(1, 100000), 0o644))
	var b bytes.Buffer
	for _, pair := range [][2]string{{"unknown", ""}, {"l", "unknown"}} {
		err := r.store.Diff(r.ctx(), pair[0], pair[1], &b)
		assert.Assert(r.t, errdefs.IsNotFound(err), "%q: %v", pair, err)
		_, err = r.store.Changes(r.ctx(), pair[0], pair[1])
		assert.Assert(r.t, errdefs.IsNotFound(err), "%q: %v", pair, err)
		_, err = r.store.DiffSize(r.ctx(), pair[0], pair[1])
		assert.Assert(r.t, errdefs.IsNotFound(err), "%q: %v", pair, err)
	}
	assert.Equal(r.t, b.Len(), 0)
	full := errors.New("writer is full")
	err := r.store.Diff(r.ctx(), "l", "", &limitedWriter{left: 1000, err: full})
	assert.Assert(r.t, errors.Is(err, full), "%v", err)
}

// limitedWriter takes left bytes and then fails with err.
type limitedWriter struct {
	left int
	err  error
}

func (w *limitedWriter) Write(p []byte) (int, error) {
	if len(p) > w.left {
		n := w.left
		w.left = 0
		return n, w.err
	}
	w.left -= len(p)
	return len(p), nil
}

func diffSize(r *rig) {
	r.create("base", "")
	r.write("base", CreateFile("keep", Noise(1, 1000), 0o644), CreateFile("change", Noise(2, 2000), 0o644), CreateFile("drop", Noise(3, 4000), 0o644))
	r.create("l", "base")
	r.write("l", Append("change", []byte("12345")), Remove("drop"), CreateFile("new", Noise(4, 300), 0o644),
		Link("new", "again"), Symlink("new", "sym"), Mkdir("d", 0o755))
	for _, c := range []struct {
		name, parent string
		want         int64
	}{{"base", "", 7000}, {"l", "base", 2005 + 300}, {"l", "", 1000 + 2005 + 300}} {
		got, err := r.store.DiffSize(r.ctx(), c.name, c.parent)
		assert.NilError(r.t, err)
		assert.Equal(r.t, got, c.want, "%s against %q", c.name, c.parent)
	}
}

// diffPiped is how docker commit works: the store reads from itself. A lock held across a stream
// would never end.
func diffPiped(r *rig) {
	r.create("base", "")
	r.write("base", Root(1, 300), CreateFile("big", Noise(5, 3<<20), 0o644))
	r.create("copy", "")
	pr, pw := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := r.store.Diff(r.ctx(), "base", "", pw)
		pw.CloseWithError(err)
		done <- err
	}()
	_, err := r.store.Apply(r.ctx(), "copy", pr)
	assert.NilError(r.t, err)
	assert.NilError(r.t, <-done)
	r.same(rootless(r.tree("base")), rootless(r.tree("copy")), "copy")
}

func diffOrder(r *rig) {
	r.create("l", "")
	r.write("l", Mkdir("a", 0o755), Mkdir("a/b", 0o755), CreateFile("a/b/c", nil, 0o644), CreateFile("a-b", nil, 0o644),
		CreateFile("a/b.c", nil, 0o644), CreateFile("A", nil, 0o644), CreateFile("b", nil, 0o644))
	names, err := memberNames(r.diff("l", ""))
	assert.NilError(r.t, err)
	assert.DeepEqual(r.t, names, []string{"A", "a", "a/b", "a/b/c", "a/b.c", "a-b", "b"})
}

// randomChanges: several rounds of random changes, each compared with the slow and obvious answer.
func randomChanges(r *rig) {
	const files, rounds = 400, 6
	r.create(chainName(0), "")
	r.write(chainName(0), Root(21, files))
	before := r.tree(chainName(0))
	for i := 1; i <= rounds; i++ {
		r.create(chainName(i), chainName(0))
		r.write(chainName(i), Churn(uint64(100+i), 60, files))
		after := r.tree(chainName(i))
		r.sameChanges(Changes(before, after), r.changes(chainName(i), chainName(0)))
		r.sameChanges(Changes(Tree{".": {}}, after), r.changes(chainName(i), ""))
	}
}

// changesAfterApply: a layer filled from a tar lists the same changes as the tree shows.
func changesAfterApply(r *rig) {
	for i, c := range archiveCases() {
		if c.name == "unchanged files again" {
			continue // a union file system cannot see that they are the same
		}
		name, parent, before := fmt.Sprint("l", i), "", Tree{".": {}}
		if c.base != nil {
			parent = "base-" + name
			r.fill(parent, "", c.base)
			before = r.tree(parent)
		}
		r.fill(name, parent, c.text)
		want := Changes(before, r.tree(name))
		r.sameChanges(want, withoutExtra(want, r.changes(name, parent)))
		_, err := r.store.Apply(r.ctx(), name, bytes.NewReader(c.text))
		assert.Assert(r.t, errdefs.IsFailedPrecondition(err), "second apply: %v", err)
	}
}

// createWith makes a layer with options and leaves the error to the caller.
func (r *rig) createWith(name, parent string, o store.CreateOptions) error {
	return r.store.Create(r.ctx(), name, parent, o)
}
