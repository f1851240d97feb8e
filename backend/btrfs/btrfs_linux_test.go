package btrfs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/backendtest"
	"strata/backend/internal/layertar/pack"
	"strata/backend/internal/loopfs"
	"strata/backend/internal/treediff"
)

// fsSize is the size of the file systems under test, bytes, all of it sparse.
const fsSize = 1 << 30

// rig is a backend on a file system of its own. Its methods stop the test on any error.
type rig struct {
	*testing.T
	b    backend.Backend
	home string
	last int
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{T: t, home: filepath.Join(loopfs.New(t, "btrfs", fsSize, ""), "home")}
	assert.NilError(t, os.Mkdir(r.home, 0o700))
	ledger := backendtest.NewLedger(t, r.home)
	t.Cleanup(func() { ledger.Check(t) })
	r.b = r.open(backend.Env{Home: r.home})
	return r
}

func (r *rig) open(env backend.Env) backend.Backend {
	r.Helper()
	b, err := factory().New(r.Context(), env)
	assert.NilError(r, err)
	return b
}

// create makes a layer on top of another one, which it seals; the zero Layer is none.
func (r *rig) create(parent backend.Layer) backend.Layer {
	r.Helper()
	r.last++
	l := backend.Layer{ID: fmt.Sprintf("layer%d", r.last)}
	if parent.ID != "" {
		r.seal(parent)
		l.Parents = append([]backend.Parent{{ID: parent.ID}}, parent.Parents...)
	}
	assert.NilError(r, r.b.Create(r.Context(), l))
	return l
}

func (r *rig) seal(l backend.Layer) {
	r.Helper()
	assert.NilError(r, as[backend.Sealer](r, r.b).Seal(r.Context(), l))
}

func (r *rig) clone(template backend.Layer) backend.Layer {
	r.Helper()
	r.last++
	l := backend.Layer{ID: fmt.Sprintf("layer%d", r.last), Parents: template.Parents}
	r.seal(template)
	assert.NilError(r, as[backend.Cloner](r, r.b).Clone(r.Context(), l, template))
	return l
}

func (r *rig) remove(l backend.Layer) {
	r.Helper()
	assert.NilError(r, r.b.Remove(r.Context(), l))
}

func (r *rig) dir(l backend.Layer) string { return filepath.Join(r.home, l.ID) }

func (r *rig) apply(l backend.Layer, steps ...backendtest.Step) {
	r.Helper()
	assert.NilError(r, backendtest.Steps(steps...)(r.dir(l)))
}

func (r *rig) changes(l backend.Layer) []string {
	r.Helper()
	return list(r, r.narrowed(l))
}

// narrowed compares a layer with its parent where Narrow says that they may differ, as the store does.
func (r *rig) narrowed(l backend.Layer) iter.Seq2[backend.Change, error] {
	r.Helper()
	if l.Parent() == "" {
		return treediff.Changes(r.Context(), r.dir(l), "", treediff.Options{})
	}
	lower, err := as[backend.Placer](r, r.b).Place(r.Context(), backend.Layer{ID: l.Parent()})
	assert.NilError(r, err)
	unchanged, err := as[backend.Narrower](r, r.b).Narrow(r.Context(), l, r.dir(l), lower.Dir)
	assert.NilError(r, err)
	return treediff.Changes(r.Context(), r.dir(l), lower.Dir, treediff.Options{Unchanged: unchanged, OneDisk: unchanged != nil})
}

func list(t testing.TB, changes func(func(backend.Change, error) bool)) []string {
	t.Helper()
	all := []string{}
	for c, err := range changes {
		assert.NilError(t, err)
		all = append(all, c.Kind.String()+" "+c.Path)
	}
	return all
}

// compared is the answer of a complete comparison.
func (r *rig) compared(l backend.Layer) []string {
	r.Helper()
	lower := ""
	if l.Parent() != "" {
		lower = filepath.Join(r.home, l.Parent())
	}
	return list(r, treediff.Changes(r.Context(), r.dir(l), lower, treediff.Options{}))
}

func (r *rig) tree(l backend.Layer) backendtest.Tree {
	r.Helper()
	tr, err := backendtest.ReadTree(r.dir(l))
	assert.NilError(r, err)
	return tr
}

func as[T any](t testing.TB, b backend.Backend) T {
	t.Helper()
	v, ok := b.(T)
	assert.Assert(t, ok, "the backend has no %T", *new(T))
	return v
}

// command runs btrfs-progs, which say what the kernel thinks.
func command(t testing.TB, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	assert.NilError(t, err, "%s: %s", strings.Join(args, " "), out)
	return string(out)
}

func TestNewRefusesOtherFileSystems(t *testing.T) {
	_, err := factory().New(t.Context(), backend.Env{Home: loopfs.New(t, "tmpfs", 1<<20, "")})
	assert.ErrorContains(t, err, "does not lie on a btrfs file system")
	assert.Assert(t, errdefs.IsFailedPrecondition(err), "%v", err)
}

// TestRandomChanges compares the search for what is younger with a complete comparison: on running layers, on
// sealed ones, on clones whose template is there or gone, and after blocks have been written back.
func TestRandomChanges(t *testing.T) {
	r := newRig(t)
	const files = 1500
	base := r.create(backend.Layer{})
	r.apply(base, backendtest.Root(1, files))
	for seed := range uint64(12) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		l := r.create(base)
		assert.DeepEqual(t, r.changes(l), []string{})
		if seed%2 == 0 {
			r.apply(l, backendtest.Churn(seed, 20, files))
		}
		for range 3 { // running: nothing is written back yet
			r.apply(l, shuffle(rnd, files, 15))
			assert.DeepEqual(t, r.changes(l), r.compared(l))
		}
		want := r.compared(l)
		clone := r.clone(l)
		assert.DeepEqual(t, r.changes(l), want)
		assert.DeepEqual(t, r.changes(clone), want)
		r.apply(clone, shuffle(rnd, files, 15))
		assert.DeepEqual(t, r.changes(clone), r.compared(clone))
		again := r.clone(clone)
		r.apply(again, shuffle(rnd, files, 5))
		assert.DeepEqual(t, r.changes(again), r.compared(again))
		r.remove(l) // nothing tells any more what the clones descend from
		assert.DeepEqual(t, r.changes(again), r.compared(again))
		next := r.create(again)
		r.apply(next, shuffle(rnd, files, 10))
		assert.DeepEqual(t, r.changes(next), r.compared(next))
		for _, l := range []backend.Layer{next, again, clone} {
			r.remove(l)
		}
	}
}

// shuffle makes n random changes to a tree made by backendtest.Root, moves of directories and files among them.
func shuffle(rnd *rand.Rand, files, n int) backendtest.Step {
	dirs := []string{"bin", "etc", "etc/default", "usr/bin", "usr/share/doc/libc6", "usr/share", "var/lib/dpkg", "var/lib/dpkg/info", "root", "usr/moved", "var/moved", "etc/moved"}
	dir := func() string { return dirs[rnd.IntN(len(dirs))] }
	file := func() string { return filepath.Join(dir(), fmt.Sprintf("file%05d", rnd.IntN(files))) }
	steps := []func() backendtest.Step{
		func() backendtest.Step { return backendtest.Rename(dir(), dir()) },
		func() backendtest.Step { return backendtest.Rename(file(), file()) },
		func() backendtest.Step { return exchange(dir(), dir()) },
		func() backendtest.Step { return backendtest.Link(file(), file()+"-link") },
		func() backendtest.Step { return backendtest.Symlink(file(), filepath.Join(dir(), "link")) },
		func() backendtest.Step { return backendtest.Remove(file()) },
		func() backendtest.Step { return backendtest.RemoveAll(dir()) },
		func() backendtest.Step { return backendtest.Replace(dir(), 0o755) },
		func() backendtest.Step { return backendtest.MkdirAll(dir()) },
		func() backendtest.Step { return backendtest.Append(file(), []byte("more")) },
		func() backendtest.Step { return backendtest.Chmod(file(), 0o600) },
		func() backendtest.Step { return backendtest.SetXattr(dir(), "user.x", fmt.Sprint(rnd.IntN(1000))) },
		func() backendtest.Step {
			return backendtest.CreateFile(filepath.Join(dir(), "new"), backendtest.Noise(rnd.Uint64(), rnd.IntN(9000)), 0o644)
		},
	}
	return func(root string) error {
		for range n {
			if err := steps[rnd.IntN(len(steps))]()(root); err != nil && !expected(err) {
				return err
			}
		}
		return nil
	}
}

func exchange(a, b string) backendtest.Step {
	return func(root string) error {
		return unix.Renameat2(unix.AT_FDCWD, filepath.Join(root, a), unix.AT_FDCWD, filepath.Join(root, b), unix.RENAME_EXCHANGE)
	}
}

// expected tells errors of changes that do not fit the tree as it happens to be.
func expected(err error) bool {
	for _, e := range []error{unix.ENOENT, unix.ENOTDIR, unix.EEXIST, unix.EISDIR, unix.ENOTEMPTY, unix.EINVAL, unix.ELOOP, unix.EPERM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// TestChangesAreCheap holds that the work does not grow with the layer. It is about a hundredth of a complete
// comparison here; a quarter leaves room for a busy machine.
func TestChangesAreCheap(t *testing.T) {
	r := newRig(t)
	base := r.create(backend.Layer{})
	r.apply(base, backendtest.Root(1, 20000))
	l := r.create(base)
	r.apply(l, backendtest.CreateFile("usr/bin/new", []byte("x"), 0o755), backendtest.Remove("etc/file00001"))
	want := []string{"C /etc", "D /etc/file00001", "C /usr", "C /usr/bin", "A /usr/bin/new"}
	r.seal(l)
	assert.DeepEqual(t, r.changes(l), want)
	native, whole := time.Hour, time.Hour
	for range 3 {
		start := time.Now()
		r.changes(l)
		native = min(native, time.Since(start))
		start = time.Now()
		r.compared(l)
		whole = min(whole, time.Since(start))
	}
	t.Logf("changes of 2 files in 20000: %v, complete comparison: %v", native, whole)
	assert.Assert(t, native*4 < whole, "%v against %v", native, whole)
}

// TestRunning lists and packs the changes of a layer that is written to all the time.
func TestRunning(t *testing.T) {
	r := newRig(t)
	base := r.create(backend.Layer{})
	r.apply(base, backendtest.Root(1, 500))
	l := r.create(base)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		rnd := rand.New(rand.NewPCG(1, 2))
		for ctx.Err() == nil {
			if err := shuffle(rnd, 500, 5)(r.dir(l)); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for range 10 {
		r.changes(l)
		var tar bytes.Buffer
		assert.NilError(t, pack.Changes(t.Context(), &tar, r.dir(l), r.narrowed(l), pack.Options{Vanished: true}))
	}
	cancel()
	assert.NilError(t, <-done)
	assert.DeepEqual(t, r.changes(l), r.compared(l))
}

// TestNested: subvolumes made by a container are in its children, in the changes, and go with the layer.
func TestNested(t *testing.T) {
	r := newRig(t)
	base := r.create(backend.Layer{})
	r.apply(base, backendtest.MkdirAll("a/b"), backendtest.CreateFile("a/f", nil, 0o644))
	sub := func(l backend.Layer, path string) {
		command(t, "btrfs", "subvolume", "create", filepath.Join(r.dir(l), path))
	}
	sub(base, "a/b/sub")
	sub(base, "a/b/sub/inner")
	sub(base, "top")
	r.apply(base, backendtest.CreateFile("a/b/sub/f", []byte("1"), 0o644), backendtest.CreateFile("a/b/sub/inner/g", []byte("2"), 0o644))
	command(t, "btrfs", "subvolume", "snapshot", "-r", r.dir(base)+"/a/b/sub/inner", r.dir(base)+"/a/frozen")
	command(t, "chattr", "+i", r.dir(base)+"/a/b", r.dir(base)+"/top")

	l := r.create(base)
	assert.Equal(t, backendtest.Diff(r.tree(base), r.tree(l)), "")
	assert.DeepEqual(t, r.changes(l), []string{})
	command(t, "chattr", "-i", r.dir(l)+"/a/b", r.dir(l)+"/top") // they were protected as the parent's are
	sub(l, "fresh")
	r.apply(l, backendtest.CreateFile("fresh/x", nil, 0o644), backendtest.Append("a/b/sub/inner/g", []byte("more")), backendtest.CreateFile("top/new", nil, 0o644))
	want := []string{"C /a", "C /a/b", "C /a/b/sub", "C /a/b/sub/inner", "C /a/b/sub/inner/g", "A /fresh", "A /fresh/x", "C /top", "A /top/new"}
	assert.DeepEqual(t, r.changes(l), want)
	assert.DeepEqual(t, r.compared(l), want)
	clone := r.clone(l)
	assert.DeepEqual(t, r.changes(clone), want)
	command(t, "btrfs", "subvolume", "delete", r.dir(clone)+"/top")
	assert.DeepEqual(t, r.changes(clone), r.compared(clone))
	command(t, "chattr", "+a", r.dir(clone)+"/a", r.dir(clone)+"/a/b", r.dir(clone)+"/a/b/sub", r.dir(clone))

	for _, l := range []backend.Layer{clone, l, base} {
		r.remove(l)
		r.remove(l)
	}
	assert.Equal(t, command(t, "btrfs", "subvolume", "list", r.home), "")
}

// TestRemoveMountedNested leaves what is mounted on the way to a nested subvolume alone.
func TestRemoveMountedNested(t *testing.T) {
	r := newRig(t)
	l := r.create(backend.Layer{})
	r.apply(l, backendtest.MkdirAll("a"))
	command(t, "btrfs", "subvolume", "create", r.dir(l)+"/a/sub")
	assert.NilError(t, unix.Mount("tmpfs", r.dir(l)+"/a", "tmpfs", 0, ""))
	err := r.b.Remove(t.Context(), l)
	assert.NilError(t, unix.Unmount(r.dir(l)+"/a", 0))
	assert.Assert(t, errdefs.IsFailedPrecondition(err), "%v", err)
	r.remove(l)
}

func TestInvalidID(t *testing.T) {
	r := newRig(t)
	kept := r.create(backend.Layer{})
	for _, id := range []string{"", ".", "..", "../home", "a/b"} {
		assert.Assert(t, errdefs.IsInvalidArgument(r.b.Remove(t.Context(), backend.Layer{ID: id})), "%q", id)
		assert.Assert(t, r.b.Create(t.Context(), backend.Layer{ID: id}) != nil, "%q", id)
	}
	_, err := os.Stat(r.dir(kept))
	assert.NilError(t, err)
}

// TestSeal holds that nobody can write to a sealed layer, and everybody to its child.
func TestSeal(t *testing.T) {
	r := newRig(t)
	l := r.create(backend.Layer{})
	r.apply(l, backendtest.CreateFile("f", nil, 0o644))
	child := r.create(l)
	assert.ErrorIs(t, backendtest.CreateFile("g", nil, 0o644)(r.dir(l)), unix.EROFS)
	r.apply(child, backendtest.CreateFile("g", nil, 0o644))
	check := as[backend.Checker](t, r.b)
	assert.NilError(t, check.Check(t.Context(), child, false))
	command(t, "btrfs", "property", "set", r.dir(l), "ro", "false")
	assert.Assert(t, errdefs.IsFailedPrecondition(check.Check(t.Context(), child, false)))
	assert.NilError(t, check.Check(t.Context(), child, true))
	assert.NilError(t, check.Check(t.Context(), child, false))
	r.remove(child)
	assert.NilError(t, os.Mkdir(r.dir(child), 0o755)) // restored from a tar
	assert.Assert(t, errdefs.IsDataLoss(check.Check(t.Context(), child, true)))
	r.remove(child)
}

// TestStores finds parents in additional stores, on the same and on another file system.
func TestStores(t *testing.T) {
	near, far := newRig(t), newRig(t)
	for name, other := range map[string]*rig{"near": near, "far": far} {
		t.Run(name, func(t *testing.T) {
			base := other.create(backend.Layer{})
			other.apply(base, backendtest.Root(2, 200))
			other.seal(base)
			home := filepath.Join(filepath.Dir(near.home), name)
			assert.NilError(t, os.Mkdir(home, 0o700))
			r := &rig{T: t, home: home}
			r.b = r.open(backend.Env{Home: home, Stores: []string{t.TempDir(), other.home}})
			l := backend.Layer{ID: "child", Parents: []backend.Parent{{ID: base.ID}}}
			assert.NilError(t, r.b.Create(t.Context(), l))
			assert.Equal(t, backendtest.Diff(other.tree(base), r.tree(l)), "")
			assert.DeepEqual(t, r.changes(l), []string{})
			r.apply(l, backendtest.CreateFile("new", nil, 0o644))
			assert.DeepEqual(t, r.changes(l), []string{"A /new"})
			r.remove(l)
			other.remove(base)
		})
	}
}

// BenchmarkLife is what a container's layer costs: made from a parent of many files, and removed.
func BenchmarkLife(b *testing.B) {
	dir := loopfs.New(b, "btrfs", fsSize, "")
	back, err := factory().New(b.Context(), backend.Env{Home: dir})
	assert.NilError(b, err)
	base := backend.Layer{ID: "base"}
	assert.NilError(b, back.Create(b.Context(), base))
	assert.NilError(b, backendtest.Root(1, 5000)(filepath.Join(dir, "base")))
	assert.NilError(b, as[backend.Sealer](b, back).Seal(b.Context(), base))
	l := backend.Layer{ID: "layer", Parents: []backend.Parent{{ID: "base"}}}
	for b.Loop() {
		assert.NilError(b, back.Create(b.Context(), l))
		assert.NilError(b, back.Remove(b.Context(), l))
	}
}
