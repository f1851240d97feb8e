package backendtest

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/internal/loopfs"
	"strata/backend/store"
)

// troubleRows are about streams that break, callers that go away and disks that are full.
func troubleRows() []row {
	return []row{
		{name: "torn apply", run: tornApply},
		{name: "apply of garbage", run: garbageApply},
		{name: "apply of an empty stream", run: emptyApply},
		{name: "second apply", run: secondApply},
		{name: "apply to a written layer", run: applyToWritten},
		{name: "apply cancelled", run: applyCancelled},
		{name: "diff cancelled", run: diffCancelled},
		{name: "remove during apply", run: removeDuringApply},
		{name: "calls with a cancelled context", run: cancelledCalls},
	}
}

// errTorn is what a connection that breaks reads as.
var errTorn = errors.New("connection reset")

// tornApply cuts a stream at many places. The layer must be refused and stay removable; above all
// it must not look whole.
func tornApply(r *rig) {
	r.fill("base", "", archive(file("base", "b")))
	text := manyFiles(60)
	for i, cut := range []int{0, 1, 100, 511, 512, 513, 1024, 1500, len(text) / 3, len(text) / 2, len(text) - 1025, len(text) - 2000} {
		name := fmt.Sprint("torn", i)
		r.create(name, "base")
		_, err := r.store.Apply(r.ctx(), name, io.MultiReader(bytes.NewReader(text[:cut]), failingReader{errTorn}))
		assert.Assert(r.t, errors.Is(err, errTorn), "cut at %d: %v", cut, err)
		r.wantUnusable(name)
		_, err = r.store.Apply(r.ctx(), name, bytes.NewReader(text[cut:])) // dockerd sends the rest
		assert.Assert(r.t, errdefs.IsFailedPrecondition(err), "the rest of a stream cut at %d: %v", cut, err)
		if i%2 == 0 {
			r.remove(name)
		}
	}
	r.reopenDropping("base")
}

type failingReader struct{ err error }

func (f failingReader) Read([]byte) (int, error) { return 0, f.err }

// wantUnusable: a layer that a failed Apply left can be nothing but removed.
func (r *rig) wantUnusable(name string) {
	r.t.Helper()
	_, err := r.store.Mount(r.ctx(), name, store.MountOptions{})
	assert.Assert(r.t, errdefs.IsFailedPrecondition(err), "mount of %s: %v", name, err)
	err = r.store.Diff(r.ctx(), name, "", io.Discard)
	assert.Assert(r.t, errdefs.IsFailedPrecondition(err), "diff of %s: %v", name, err)
	err = r.createWith("on-"+name, name, store.CreateOptions{})
	assert.Assert(r.t, errdefs.IsFailedPrecondition(err), "child of %s: %v", name, err)
}

// reopenDropping reopens the store and wants exactly these layers to be left.
func (r *rig) reopenDropping(want ...string) {
	r.t.Helper()
	r.reopen()
	assert.NilError(r.t, awaitDeletions(r.ctx(), r.store))
	assert.DeepEqual(r.t, r.names(), append([]string{}, want...))
}

func garbageApply(r *rig) {
	short := archive(file("f", "content"))
	texts := map[string][]byte{
		"noise": Noise(1, 20000), "noise after a file": append(bytes.Clone(short[:1024]), Noise(2, 5000)...),
		"checksum": append([]byte("X"), short[1:]...), "half a header": short[:300], "half a body": bigArchive("b", 5000)[:2000],
	}
	for name, text := range texts {
		r.create(name, "")
		_, err := r.store.Apply(r.ctx(), name, bytes.NewReader(text))
		assert.Assert(r.t, err != nil, "%s was taken for a layer", name)
		r.wantUnusable(name)
		r.remove(name)
	}
}

// emptyApply: a tar of no bytes is a layer (docker import /dev/null), and so is an empty tar. What is left, perhaps nothing, of a stream
// that was cut off is none.
func emptyApply(r *rig) {
	r.fill("none", "", nil)
	assert.Equal(r.t, len(rootless(r.tree("none"))), 0)
	assert.Equal(r.t, len(r.diff("none", "")), 0)
	r.create("cut", "")
	_, err := r.store.Apply(r.ctx(), "cut", bytes.NewReader(archive(file("f", "f"))[:700]))
	assert.Assert(r.t, err != nil)
	_, err = r.store.Apply(r.ctx(), "cut", bytes.NewReader(nil))
	assert.Assert(r.t, errdefs.IsFailedPrecondition(err), "%v", err)
	r.wantUnusable("cut")
	r.remove("cut")
	r.create("of-another-process", "")
	r.reopen()
	_, err = r.store.Apply(r.ctx(), "of-another-process", bytes.NewReader(nil))
	assert.Assert(r.t, errdefs.IsFailedPrecondition(err), "%v", err)
	r.remove("of-another-process")
	r.fill("empty", "", make([]byte, 1024))
	assert.Equal(r.t, len(rootless(r.tree("empty"))), 0)
	assert.Assert(r.t, bytes.Equal(r.diff("empty", ""), make([]byte, 1024)))
}

func secondApply(r *rig) {
	text := archive(file("f", "f"))
	r.fill("l", "", text)
	_, err := r.store.Apply(r.ctx(), "l", bytes.NewReader(archive(file("g", "g"))))
	assert.Assert(r.t, errdefs.IsFailedPrecondition(err), "%v", err)
	assert.Assert(r.t, bytes.Equal(text, r.diff("l", "")), "the first one stays")
	_, err = r.store.Apply(r.ctx(), "unknown", bytes.NewReader(text))
	assert.Assert(r.t, errdefs.IsNotFound(err), "%v", err)
}

// applyToWritten: a layer that is a parent, or may hold something already, takes no tar. Its diff
// would be the tar, and not what it holds.
func applyToWritten(r *rig) {
	r.create("parent", "")
	r.create("child", "parent")
	_, err := r.store.Apply(r.ctx(), "parent", bytes.NewReader(archive(file("f", "f"))))
	assert.Assert(r.t, errdefs.IsFailedPrecondition(err), "%v", err)
	assert.Equal(r.t, len(rootless(r.tree("child"))), 0)
	r.write("child", CreateFile("own", nil, 0o644))
	assert.NilError(r.t, r.store.Clone(r.ctx(), "clone", "child", store.CreateOptions{}))
	r.create("mounted", "")
	r.mount("mounted")
	r.create("early", "")
	r.reopen()
	r.create("looked-at", "parent")
	assert.Equal(r.t, len(r.diff("looked-at", "parent")), 1024)
	r.apply("looked-at", archive(file("f", "f")))
	for _, name := range []string{"child", "clone", "mounted", "early"} {
		_, err = r.store.Apply(r.ctx(), name, bytes.NewReader(archive(file("f", "f"))))
		assert.Assert(r.t, errdefs.IsFailedPrecondition(err), "%s: %v", name, err)
	}
	assert.DeepEqual(r.t, rootless(r.tree("child")), rootless(r.tree("clone")))
}

// patience bounds what must not take long.
const patience = 10 * time.Second

// soon waits for a result that must come soon.
func soon(r *rig, what string, done <-chan error) error {
	r.t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		r.t.Fatalf("%s still runs after %s", what, patience)
		return nil
	}
}

// endless is a tar with one huge file, made as it is read.
type endless struct {
	head io.Reader
	read func(total int) // told how much was read so far
	sum  int
}

func newEndless(read func(int)) *endless {
	m := file("huge", "")
	m.body = nil
	text := archive(format(tar.FormatUSTAR, []member{m})...)
	copy(text[124:136], "77777777777\x00") // octal size, the largest that fits: 8 GiB - 1
	sum := 0
	copy(text[148:156], "        ")
	for _, b := range text[:512] {
		sum += int(b)
	}
	copy(text[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return &endless{head: bytes.NewReader(text[:512]), read: read}
}

func (e *endless) Read(p []byte) (int, error) {
	n, err := e.head.Read(p)
	if err == io.EOF {
		n, err = min(len(p), 64<<10), nil
		clear(p[:n])
		time.Sleep(time.Millisecond) // not faster than a network, so that little is written
	}
	e.sum += n
	e.read(e.sum)
	return n, err
}

func applyCancelled(r *rig) {
	r.create("l", "")
	ctx, cancel := context.WithCancel(r.ctx())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := r.store.Apply(ctx, "l", newEndless(func(total int) {
			if total > 1<<20 {
				cancel()
			}
		}))
		done <- err
	}()
	err := soon(r, "a cancelled Apply", done)
	assert.Assert(r.t, errors.Is(err, context.Canceled) || errdefs.IsCanceled(err), "%v", err)
	r.wantUnusable("l")
	r.reopenDropping()
}

func diffCancelled(r *rig) {
	r.create("l", "")
	r.write("l", CreateFile("big", Noise(1, 8<<20), 0o644))
	want := r.diff("l", "")
	ctx, cancel := context.WithCancel(r.ctx())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- r.store.Diff(ctx, "l", "", writerFunc(func(p []byte) (int, error) { cancel(); return len(p), nil }))
	}()
	err := soon(r, "a cancelled Diff", done)
	assert.Assert(r.t, errors.Is(err, context.Canceled) || errdefs.IsCanceled(err), "%v", err)
	assert.Assert(r.t, bytes.Equal(want, r.diff("l", "")))
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// removeDuringApply: Remove ends the stream, wherever it is.
func removeDuringApply(r *rig) {
	r.create("l", "")
	started, done := make(chan struct{}), make(chan error, 1)
	go func() {
		begun := false
		_, err := r.store.Apply(r.ctx(), "l", newEndless(func(total int) {
			if !begun && total > 256<<10 {
				begun = true
				close(started)
			}
		}))
		done <- err
	}()
	select {
	case <-started:
	case err := <-done:
		r.t.Fatalf("apply ended by itself: %v", err)
	}
	r.remove("l")
	assert.Assert(r.t, soon(r, "Apply to a removed layer", done) != nil)
	assert.Equal(r.t, len(r.names()), 0)
}

// cancelledCalls: a caller that is gone already changes nothing, or everything.
func cancelledCalls(r *rig) {
	threeLayers(r)
	ctx, cancel := context.WithCancel(r.ctx())
	cancel()
	if err := r.store.Create(ctx, "new", "top", store.CreateOptions{}); err == nil {
		assert.Equal(r.t, len(r.changes("new", "top")), 0)
		r.remove("new")
	} else {
		_, err := r.store.Stat(r.ctx(), "new")
		assert.Assert(r.t, errdefs.IsNotFound(err), "%v", err)
	}
	if _, err := r.store.Mount(ctx, "top", store.MountOptions{}); err == nil {
		r.unmount("top")
	}
	assert.Equal(r.t, r.stat("top").Mounts, 0)
	mounts, err := loopfs.MountsBelow(r.cfg.Root)
	assert.NilError(r.t, err)
	for _, m := range mounts {
		assert.Assert(r.t, m != r.stat("top").MountDir, "mounted, but not counted")
	}
}

// runDiskFull fills a small file system at every stage of a layer's life. Errors are clear, other
// layers stay whole, and once there is room again everything works.
func runDiskFull(t *testing.T, f Factory) {
	dir := filepath.Join(loopfs.New(t, f.FS, loopfs.Small(f.FS), f.MountOptions), "full")
	r := newRig(t, f, dir, nil)
	defer r.finish()
	kept := archive(directory("d"), file("d/kept", string(Noise(1, 1<<20))), sym("d", "s"))
	r.fill("kept", "", kept)
	r.create("rw", "kept")
	r.write("rw", CreateFile("before", Noise(2, 100<<10), 0o644))
	for _, left := range []int64{6 << 20, 1 << 20, 0} {
		ballast := fillDisk(r, left)
		diskFullStages(r, kept)
		assert.NilError(t, os.Remove(ballast))
		assert.NilError(t, syncFS(dir))
	}
	r.reopen()
	r.fill("after", "kept", archive(file("f", "room again")))
	assert.Assert(t, bytes.Equal(r.diff("kept", ""), kept))
	reopenFull(r)
	assert.Assert(t, bytes.Equal(r.diff("kept", ""), kept))
}

// reopenFull opens the store where there is no room for as much as a directory, and removes a layer: that is how people get room.
func reopenFull(r *rig) {
	ballast := fillDisk(r, 0)
	small := filepath.Join(r.dir, "small")
	for i := 0; ; i++ {
		if err := os.MkdirAll(filepath.Join(small, fmt.Sprint(i)), 0o700); err != nil {
			assert.Assert(r.t, noSpace(err), "%v", err)
			break
		}
	}
	r.reopen()
	assert.NilError(r.t, r.store.Remove(r.ctx(), "rw"))
	assert.NilError(r.t, r.store.Settle(r.ctx()))
	assert.NilError(r.t, errors.Join(os.Remove(ballast), os.RemoveAll(small), syncFS(r.dir)))
	r.reopen()
}

// fillDisk writes a file until at most left bytes are free.
func fillDisk(r *rig, left int64) (path string) {
	r.t.Helper()
	path = filepath.Join(r.dir, "ballast")
	f, err := os.Create(path)
	assert.NilError(r.t, err)
	defer f.Close()
	chunk := Noise(3, 1<<20)
	for size := len(chunk); size >= 4096; {
		free, err := freeBytes(r.dir)
		assert.NilError(r.t, err)
		if free-int64(size) < left {
			size /= 2
			continue
		}
		if _, err := f.Write(chunk[:size]); err != nil {
			assert.Assert(r.t, noSpace(err), "%v", err)
			size /= 2
			continue
		}
		assert.NilError(r.t, f.Sync())
	}
	return path
}

// diskFullStages tries everything on a file system with too little room for 12 MiB.
func diskFullStages(r *rig, kept []byte) {
	r.t.Helper()
	ctx := r.ctx()
	tolerate := func(what string, err error) bool {
		r.t.Helper()
		assert.Assert(r.t, err == nil || noSpace(err), "%s on a full disk: %v", what, err)
		return err == nil
	}
	if tolerate("create", r.createWith("l", "kept", store.CreateOptions{})) {
		_, err := r.store.Apply(ctx, "l", bytes.NewReader(bigArchive("big", 12<<20)))
		assert.Assert(r.t, noSpace(err), "apply on a full disk: %v", err)
	}
	tolerate("clone", r.store.Clone(ctx, "c", "rw", store.CreateOptions{}))
	if _, err := r.store.Mount(ctx, "rw", store.MountOptions{}); tolerate("mount", err) {
		r.unmount("rw")
	}
	// A layer that was there before. What has to be mounted to be read wants a directory to mount it on.
	var diff bytes.Buffer
	err := r.store.Diff(ctx, "kept", "", &diff)
	if _, placed := r.back.(backend.Placer); placed {
		assert.NilError(r.t, err, "diff on a full disk")
	}
	if tolerate("diff", err) {
		assert.Assert(r.t, bytes.Equal(diff.Bytes(), kept), "a layer that was there before")
	}
	for _, name := range []string{"l", "c"} {
		tolerate("remove", r.store.Remove(ctx, name))
	}
}
