package backendtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"syscall"

	"github.com/containerd/errdefs"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/internal/mount"
	"strata/backend/store"
)

// diffRows are about Diff, Changes and DiffSize between any two layers, and about streams.
func diffRows() []row {
	return []row{
		{name: "diff against an ancestor", run: diffAncestor},
		{name: "diff against a stranger", run: diffStranger},
		{name: "diff against nothing", run: diffNothing},
		{name: "diff of a mounted layer", run: diffMounted},
		{name: "diff with something mounted inside", run: diffMountedInside},
		{name: "diff with something mounted where a client mounts", run: diffMountedAbroad},
		{name: "more attributes than can be listed", run: manyAttributes},
		{name: "diff errors", run: diffErrors},
		{name: "diff size", run: diffSize},
		{name: "diff size of sparse files", run: diffSizeSparse},
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
// diffMountedInside: what somebody has mounted in a layer is not in it, and what that hides is.
func diffMountedInside(r *rig) {
	r.create("base", "")
	r.write("base", Mkdir("d", 0o755), CreateFile("d/old", []byte("x"), 0o644), CreateFile("f", []byte("x"), 0o644))
	r.create("l", "base")
	dir, other := r.mount("l"), r.newPlain()
	assert.NilError(r.t, Steps(CreateFile("d/new", []byte("four"), 0o644), Append("f", []byte("more")), Mkdir("empty", 0o755))(dir))
	assert.NilError(r.t, Steps(CreateFile("foreign", []byte("foreign"), 0o644))(other))
	usage, err := r.store.Usage(r.ctx(), "l")
	assert.NilError(r.t, err)
	want := map[string][]byte{"": r.diff("l", ""), "base": r.diff("l", "base")}
	for target, source := range map[string]string{"d": other, "empty": other, "f": filepath.Join(other, "foreign")} {
		target = filepath.Join(dir, target)
		assert.NilError(r.t, mount.Bind(r.ctx(), source, target, true))
		defer func() { assert.Check(r.t, mount.Unmount(context.WithoutCancel(r.ctx()), target)) }()
	}
	for parent, text := range want {
		assert.Assert(r.t, bytes.Equal(r.diff("l", parent), text), "diff against %q", parent)
	}
	r.sameChanges([]backend.Change{
		{Path: "/d", Kind: backend.Modified}, {Path: "/d/new", Kind: backend.Added}, {Path: "/empty", Kind: backend.Added}, {Path: "/f", Kind: backend.Modified},
	}, r.changes("l", "base"))
	assert.Equal(r.t, len(r.changes("l", "")), 5)
	size, err := r.store.DiffSize(r.ctx(), "l", "base")
	assert.NilError(r.t, err)
	assert.Equal(r.t, size, int64(len("four")+len("xmore")))
	again, err := r.store.Usage(r.ctx(), "l")
	assert.NilError(r.t, err)
	assert.Equal(r.t, again.Inodes, usage.Inodes) // xfs gives blocks beyond a file's end back after a while
}

// diffMountedAbroad: the same where a client mounts the layer's directory itself: if that is on a shared mount, what is mounted in
// the one place shows in the other.
func diffMountedAbroad(r *rig) {
	r.create("base", "")
	r.write("base", Mkdir("d", 0o755), CreateFile("d/old", []byte("x"), 0o644))
	r.create("l", "base")
	r.write("l", CreateFile("d/new", []byte("four"), 0o644), CreateFile("f", nil, 0o644))
	mounts, err := r.store.Mounts(r.ctx(), "l", store.MountOptions{})
	assert.NilError(r.t, err)
	if mounts[0].Type != "bind" && mounts[0].Type != "none" {
		return // nobody else has the directory
	}
	want, changes, other := r.diff("l", "base"), r.changes("l", "base"), r.newPlain()
	target := filepath.Join(mounts[0].Source, "d")
	assert.NilError(r.t, mount.Bind(r.ctx(), other, target, true))
	defer func() { assert.Check(r.t, mount.Unmount(context.WithoutCancel(r.ctx()), target)) }()
	assert.Assert(r.t, bytes.Equal(r.diff("l", "base"), want))
	r.sameChanges(changes, r.changes("l", "base"))
}

// manyAttributes: of a file with more attributes than Linux lists, which not all file systems have, a diff says so. A tar with such a
// file is refused.
func manyAttributes(r *rig) {
	const number = 300 // whose names take more than 64 KiB. Short names in place of them take ZFS minutes
	name := func(i int) string { return fmt.Sprintf("user.%0250d", i) }
	r.create("base", "")
	r.write("base", CreateFile("f", []byte("x"), 0o644))
	r.create("l", "base")
	var refused error
	r.mounted("l", func(dir string) {
		for i := 0; i < number && refused == nil; i++ {
			refused = SetXattr("f", name(i), "v")(dir)
		}
	})
	for _, parent := range []string{"", "base"} {
		err := r.store.Diff(r.ctx(), "l", parent, io.Discard)
		if refused != nil {
			assert.Assert(r.t, errors.Is(refused, syscall.ENOSPC), "%v", refused)
			assert.NilError(r.t, err)
			continue
		}
		assert.Assert(r.t, errdefs.IsFailedPrecondition(err), "%v", err)
		assert.ErrorContains(r.t, err, "/f")
		assert.ErrorContains(r.t, err, "more extended attributes than Linux lists")
	}
	f := file("f", "x")
	f.PAXRecords = map[string]string{}
	for i := range number {
		f.PAXRecords["SCHILY.xattr."+name(i)] = "v"
	}
	r.create("applied", "base")
	_, err := r.store.Apply(r.ctx(), "applied", bytes.NewReader(archive(f)))
	assert.Assert(r.t, errdefs.IsInvalidArgument(err), "%v", err)
	assert.ErrorContains(r.t, err, "300 extended attributes")
	r.wantUnusable("applied")
	r.remove("applied")
}

func diffErrors(r *rig) {
	r.create("l", "")
	r.write("l", CreateFile("f", Noise(1, 100000), 0o644))
	var b bytes.Buffer
	for _, pair := range [][2]string{{"unknown", ""}, {"l", "unknown"}} {
		err := r.store.Diff(r.ctx(), pair[0], pair[1], &b)
		assert.Assert(r.t, errdefs.IsNotFound(err), "%q: %v", pair, err)
		_, err = Collect(r.store.Changes(r.ctx(), pair[0], pair[1]))
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

// diffSizeSparse has two files as large as a file can be: their sizes may add up to more than 63 bits hold.
func diffSizeSparse(r *rig) {
	r.create("base", "")
	r.create("l", "base")
	want := int64(0)
	r.write("l", func(dir string) error {
		for _, name := range []string{"a", "b"} {
			file := filepath.Join(dir, name)
			if err := CreateFile(name, nil, 0o644)(dir); err != nil {
				return err
			}
			size := int64(math.MaxInt64)
			for errors.Is(os.Truncate(file, size), syscall.EFBIG) {
				size /= 2
			}
			want += min(size, math.MaxInt64-want)
		}
		return nil
	})
	got, err := r.store.DiffSize(r.ctx(), "l", "base")
	assert.NilError(r.t, err)
	assert.Equal(r.t, got, want)
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
