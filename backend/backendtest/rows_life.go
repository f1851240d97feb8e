package backendtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/internal/loopfs"
	"strata/backend/store"
)

// lifeRows are about names, the tree of layers, mounts and removal.
func lifeRows() []row {
	return []row{
		{name: "names", run: names},
		{name: "create errors", run: createErrors},
		{name: "init layer pattern", run: initPattern},
		{name: "written before it is a parent", run: buildPattern},
		{name: "sealed layers are read-only", run: sealedReadOnly},
		{name: "sealed and not noted", run: sealedInVain},
		{name: "counted mounts", run: countedMounts},
		{name: "remove while mounted", run: removeMounted},
		{name: "remove with children", run: removeWithChildren},
		{name: "remove of nothing", run: removeNothing},
		{name: "same name again", run: sameName},
		{name: "reopen", run: reopened},
		{name: "mounts survive a reopen", run: mountsSurvive},
		{name: "one process at a time", run: oneProcess},
		{name: "read-only store", run: readOnlyStore},
		{name: "store remembers its backend while it has layers", run: remembersBackend},
		{name: "additional stores", run: additionalStores},
		{name: "data without a record", run: strayData},
		{name: "sizes of what goes", run: leaving},
	}
}

// dockerNames are the forms of names that Docker and BuildKit use.
func dockerNames() []string {
	hex := strings.Repeat("0123456789abcdef", 4)
	return []string{hex, hex + "-init", "a2vp4kqs1gxo7cdl3w0r9ezbi", strings.Repeat("n", 255), "x"}
}

func names(r *rig) {
	for _, n := range dockerNames() {
		r.create(n, "")
		r.write(n, CreateFile("name", []byte(n), 0o644))
		assert.Equal(r.t, r.stat(n).Name, n)
	}
	for _, n := range []string{"", "a\x00b", "new\nline", strings.Repeat("n", 256), "bad\xff", "\x1b[31m"} {
		err := r.createWith(n, "", store.CreateOptions{})
		assert.Assert(r.t, errdefs.IsInvalidArgument(err), "create %q: %v", n, err)
	}
	// A name is never a path: what looks like one is refused or harmless.
	before := siblings(r)
	for _, n := range []string{".", "..", "../x", "/etc", "a/b", "layers/../../x"} {
		if err := r.createWith(n, "", store.CreateOptions{}); err == nil {
			r.write(n, CreateFile("f", nil, 0o644))
			r.remove(n)
		}
	}
	r.same(before, siblings(r), "beside the store")
	for _, n := range dockerNames() {
		r.mounted(n, func(dir string) {
			text, err := os.ReadFile(filepath.Join(dir, "name"))
			assert.NilError(r.t, err)
			assert.Equal(r.t, string(text), n)
		})
	}
}

func createErrors(r *rig) {
	r.create("a", "")
	err := r.createWith("a", "", store.CreateOptions{})
	assert.Assert(r.t, errdefs.IsAlreadyExists(err), "%v", err)
	err = r.createWith("b", "unknown", store.CreateOptions{})
	assert.Assert(r.t, errdefs.IsNotFound(err), "%v", err)
	err = r.createWith("b", "b", store.CreateOptions{})
	assert.Assert(r.t, errdefs.IsNotFound(err), "%v", err)
	_, err = r.store.Stat(r.ctx(), "b")
	assert.Assert(r.t, errdefs.IsNotFound(err), "%v", err)
	_, err = r.store.Mount(r.ctx(), "b", store.MountOptions{})
	assert.Assert(r.t, errdefs.IsNotFound(err), "%v", err)
	_, err = r.store.Usage(r.ctx(), "b")
	assert.Assert(r.t, errdefs.IsNotFound(err), "%v", err)
	assert.DeepEqual(r.t, r.names(), []string{"a"})
}

// initPattern is how Docker makes a container: layer X-init is written once, X goes on top.
func initPattern(r *rig) {
	r.create("image", "")
	r.write("image", aSmallTree(), CreateFile("etc/hosts", []byte("from the image"), 0o644))
	r.create("x-init", "image")
	r.write("x-init", Mkdir("dev", 0o755), Mkdir("proc", 0o755), CreateFile(".dockerenv", nil, 0o755),
		Remove("etc/hosts"), CreateFile("etc/hosts", nil, 0o755), Symlink("/proc/mounts", "etc/mtab"))
	r.create("x", "x-init")
	assert.Equal(r.t, len(r.changes("x", "x-init")), 0)
	dir := r.mount("x")
	defer r.unmount("x")
	assert.NilError(r.t, CreateFile("etc/hosts", []byte("127.0.0.1 x\n"), 0o644)(dir))
	r.sameChanges([]backend.Change{
		{Path: "/etc", Kind: backend.Modified}, {Path: "/etc/hosts", Kind: backend.Modified},
	}, r.changes("x", "x-init"))
	size, err := r.store.DiffSize(r.ctx(), "x", "x-init")
	assert.NilError(r.t, err)
	assert.Equal(r.t, size, int64(len("127.0.0.1 x\n")))
}

// buildPattern is BuildKit's: a created layer is written through several mounts, then becomes a
// parent, and is diffed last, its child first.
func buildPattern(r *rig) {
	plain := r.newPlain()
	for i := range 4 {
		r.create(chainName(i), chainParent(i))
		for j := range 3 {
			step := CreateFile(fmt.Sprintf("f%d.%d", i, j), []byte{byte(i), byte(j)}, 0o644)
			r.write(chainName(i), step)
			assert.NilError(r.t, step(plain))
		}
	}
	want := r.readTree(plain).WithoutClock()
	archives := map[int][]byte{}
	for i := 3; i >= 0; i-- {
		archives[i] = r.diff(chainName(i), chainParent(i))
	}
	parent := ""
	for i := range 4 {
		name := fmt.Sprint("copy", i)
		r.fill(name, parent, archives[i])
		parent = name
	}
	r.same(rootless(want), rootless(r.tree(parent).WithoutClock()), "pulled image")
}

func sealedReadOnly(r *rig) {
	r.create("parent", "")
	r.write("parent", CreateFile("f", []byte("f"), 0o644))
	assert.Assert(r.t, !r.stat("parent").Sealed)
	r.create("child", "parent")
	assert.Assert(r.t, r.stat("parent").Sealed)
	assert.Equal(r.t, r.stat("parent").Children, 1)
	r.fill("applied", "", archive(file("f", "f")))
	assert.Assert(r.t, r.stat("applied").Sealed)
	for _, name := range []string{"parent", "applied"} {
		r.mounted(name, func(dir string) { wantReadOnly(r, dir) })
	}
	r.remove("child")
	assert.Assert(r.t, r.stat("parent").Sealed, "sealed for ever")
	r.mounted("parent", func(dir string) { wantReadOnly(r, dir) })
}

// sealedInVain: a layer that was sealed, but whose record could not be written, is as it was before.
func sealedInVain(r *rig) {
	r.create("l", "")
	r.write("l", CreateFile("f", []byte("b"), 0o644))
	if s, ok := r.back.(backend.Sealer); ok {
		assert.NilError(r.t, s.Seal(r.ctx(), r.layer("l")))
	}
	assert.Assert(r.t, !r.stat("l").Sealed)
	r.write("l", CreateFile("after", []byte("a"), 0o644))
	mounts, err := r.store.Mounts(r.ctx(), "l", store.MountOptions{})
	assert.NilError(r.t, err)
	assert.Assert(r.t, len(mounts) > 0)
	r.create("child", "l")
	r.mounted("l", func(dir string) { wantReadOnly(r, dir) })
	got := r.tree("child")
	assert.Assert(r.t, got["f"].Digest != "" && got["after"].Digest != "", "%v", got)
}

func wantReadOnly(r *rig, dir string) {
	r.t.Helper()
	for what, step := range map[string]Step{
		"create": CreateFile("new", nil, 0o644), "remove": Remove("f"), "chmod": Chmod("f", 0o600),
		"chown": Chown("f", 1, 1), "time": SetTime("f", old), "append": Append("f", []byte("x")),
	} {
		err := step(dir)
		assert.Assert(r.t, errors.Is(err, syscall.EROFS), "%s on a read-only mount: %v", what, err)
	}
}

func countedMounts(r *rig) {
	r.create("l", "")
	first := r.mount("l")
	assert.Equal(r.t, r.mount("l"), first)
	assert.Equal(r.t, r.stat("l").Mounts, 2)
	assert.Equal(r.t, r.stat("l").MountDir, first)
	r.unmount("l")
	assert.NilError(r.t, CreateFile("still", nil, 0o644)(first))
	r.unmount("l")
	assert.Equal(r.t, r.stat("l").Mounts, 0)
	r.unmount("l") // one too many
	r.unmount("unknown")
	assert.Equal(r.t, r.stat("l").Mounts, 0)
	mounts, err := loopfs.MountsBelow(first)
	assert.NilError(r.t, err)
	assert.Equal(r.t, len(mounts), 0)
	assert.Equal(r.t, r.mount("l"), first, "the same place every time")
	assert.Equal(r.t, r.stat("l").Mounts, 1)
	assert.NilError(r.t, Remove("still")(first))
	r.unmount("l")
}

func removeMounted(r *rig) {
	r.create("base", "")
	r.write("base", CreateFile("f", nil, 0o644))
	r.create("l", "base")
	dir := r.mount("l")
	r.mount("l")
	f, err := os.Create(filepath.Join(dir, "open"))
	assert.NilError(r.t, err)
	defer f.Close()
	r.remove("l")
	mounts, err := loopfs.MountsBelow(dir)
	assert.NilError(r.t, err)
	assert.Equal(r.t, len(mounts), 0, "%q", mounts)
	r.unmount("l") // the client's clean-up comes late
	assert.DeepEqual(r.t, r.names(), []string{"base"})
	_, err = f.WriteString("into the void")
	assert.NilError(r.t, err)
	assert.Equal(r.t, len(rootless(r.tree("base"))), 1)
}

func removeWithChildren(r *rig) {
	threeLayers(r)
	for _, name := range []string{"base", "middle"} {
		err := r.store.Remove(r.ctx(), name)
		assert.Assert(r.t, errdefs.IsFailedPrecondition(err), "%s: %v", name, err)
	}
	for _, name := range []string{"top", "middle", "base"} {
		r.remove(name)
	}
	assert.Equal(r.t, len(r.names()), 0)
}

func removeNothing(r *rig) {
	r.remove("unknown")
	r.create("l", "")
	r.remove("l")
	r.remove("l")
}

// sameName: a name is free again as soon as Remove returned, whatever the deletion still does.
func sameName(r *rig) {
	for i := range 5 {
		r.create("l", "")
		assert.Equal(r.t, len(rootless(r.tree("l"))), 0)
		r.write("l", Root(uint64(i), 100))
		r.remove("l")
	}
	r.create("l", "")
	assert.Equal(r.t, len(rootless(r.tree("l"))), 0)
}

func reopened(r *rig) {
	threeLayers(r)
	r.fill("applied", "base", archive(file("f", "f")))
	labels := map[string]string{"key": "value"}
	assert.NilError(r.t, r.createWith("labelled", "base", store.CreateOptions{Labels: labels}))
	before := map[string]store.Info{}
	trees := map[string]Tree{}
	for _, n := range r.names() {
		before[n], trees[n] = r.stat(n), r.tree(n)
	}
	r.reopen()
	assert.Equal(r.t, len(r.names()), len(before))
	for n, want := range before {
		assert.DeepEqual(r.t, r.stat(n), want)
		r.same(trees[n], r.tree(n), n)
	}
	assert.DeepEqual(r.t, r.stat("labelled").Labels, labels)
	r.write("top", CreateFile("later", nil, 0o644))
}

// mountsSurvive: closing the store leaves mounts alone, as a restart of the plugin must.
func mountsSurvive(r *rig) {
	r.create("base", "")
	r.create("l", "base")
	dir := r.mount("l")
	f, err := os.Create(filepath.Join(dir, "open"))
	assert.NilError(r.t, err)
	r.reopen()
	_, err = f.WriteString("still here")
	assert.NilError(r.t, err)
	assert.NilError(r.t, f.Close())
	assert.Equal(r.t, r.stat("l").Mounts, 1)
	assert.Equal(r.t, r.mount("l"), dir)
	r.unmount("l")
	r.unmount("l")
	assert.Equal(r.t, r.stat("l").Mounts, 0)
	assert.Equal(r.t, r.tree("l")["open"].Size, int64(len("still here")))
}

func oneProcess(r *rig) {
	_, err := store.Open(r.ctx(), r.cfg)
	assert.Assert(r.t, errdefs.IsUnavailable(err), "%v", err)
	r.create("l", "") // the first one goes on
}

func readOnlyStore(r *rig) {
	threeLayers(r)
	want := r.diff("top", "middle")
	cfg := r.cfg
	cfg.ReadOnly, cfg.New = true, r.f.New
	s, err := store.Open(r.ctx(), cfg) // beside the one that is open
	assert.NilError(r.t, err)
	layers, err := s.List(r.ctx())
	assert.NilError(r.t, err)
	assert.Equal(r.t, len(layers), 3)
	assert.Assert(r.t, s.Create(r.ctx(), "new", "", store.CreateOptions{}) != nil)
	assert.Assert(r.t, s.Remove(r.ctx(), "top") != nil)
	assert.NilError(r.t, s.Close(r.ctx()))
	assert.Assert(r.t, bytes.Equal(want, r.diff("top", "middle")))
}

func remembersBackend(r *rig) {
	r.create("a", "")
	others := []func(*store.Config){
		func(c *store.Config) { c.Backend = "another" },
		func(c *store.Config) { c.ExactDiffs, c.ExactDiffsSet = !c.ExactDiffs, true },
	}
	r.close()
	for _, change := range others {
		cfg := r.cfg
		change(&cfg)
		_, err := store.Open(r.ctx(), cfg)
		assert.Assert(r.t, errdefs.IsFailedPrecondition(err), "%v", err)
	}
	r.open()
	r.stat("a")
	assert.NilError(r.t, removeAll(r.ctx(), r.store))
	first := r.cfg
	for _, change := range others {
		r.close()
		change(&r.cfg)
		r.open()
		r.fill("b", "", archive(file("f", "f")))
		assert.NilError(r.t, removeAll(r.ctx(), r.store))
	}
	r.close()
	r.cfg = first
	r.open()
}

// additionalStores: layers of another store serve as parents, and nothing there changes.
func additionalStores(r *rig) {
	threeLayers(r)
	r.fill("applied", "base", archive(file("f", "f"), file(".wh.var", "")))
	r.create("keep", "top") // seals top
	tree, text := r.tree("top"), r.diff("applied", "base")
	r.close()
	before := r.readTree(r.cfg.Root)

	second := &rig{t: r.t, f: r.f, dir: r.dir}
	second.cfg = store.Config{Root: filepath.Join(r.dir, "second"), Backend: r.f.Backend, Stores: []string{r.cfg.Root}, New: second.construct}
	second.open()
	second.create("mine", "top")
	second.same(tree, second.tree("mine"), "child of a foreign layer")
	second.write("mine", Remove("etc/passwd"), CreateFile("own", nil, 0o644))
	second.create("mine2", "applied")
	assert.Assert(r.t, bytes.Equal(text, second.diff("applied", "base")), "diff of a foreign layer")
	assert.Equal(r.t, second.stat("top").Store, r.cfg.Root)
	second.mounted("top", func(dir string) {
		assert.Assert(r.t, errors.Is(CreateFile("x", nil, 0o644)(dir), syscall.EROFS))
	})
	_ = second.store.Remove(r.ctx(), "keep") // whatever it says, the comparison below must hold
	second.reopen()
	second.checkClean()
	assert.NilError(r.t, removeAll(context.WithoutCancel(r.ctx()), second.store))
	second.close()
	r.same(before, r.readTree(r.cfg.Root), "the additional store")
	r.open()
}

// strayData: what the backend holds without a record is found by check, and removed by gc on demand.
func strayData(r *rig) {
	lister, ok := r.back.(backend.Lister)
	if !ok {
		return // nothing to find it with; the store says so in Info
	}
	const id = "stray0000000000"
	assert.NilError(r.t, r.back.Create(r.ctx(), backend.Layer{ID: id}))
	ids, err := lister.List(r.ctx())
	assert.NilError(r.t, err)
	assert.DeepEqual(r.t, ids, []string{id})
	findings, err := r.store.Check(r.ctx(), store.CheckOptions{})
	assert.NilError(r.t, err)
	assert.Equal(r.t, len(findings), 1, "%v", findings)
	assert.Equal(r.t, findings[0].Kind, store.FindingMissingMetadata)
	orphans, err := r.store.GC(r.ctx(), store.GCOptions{})
	assert.NilError(r.t, err)
	assert.Assert(r.t, len(orphans) == 1 && orphans[0].ID == id && !orphans[0].Removed, "%v", orphans)
	assert.Equal(r.t, orphans[0].Size != nil, r.weighs(), "is the size known?")
	orphans, err = r.store.GC(r.ctx(), store.GCOptions{Yes: true})
	assert.NilError(r.t, err)
	assert.Assert(r.t, len(orphans) == 1 && orphans[0].Removed, "%v", orphans)
	assert.NilError(r.t, awaitDeletions(r.ctx(), r.store))
	ids, err = lister.List(r.ctx())
	assert.NilError(r.t, err)
	assert.Equal(r.t, len(ids), 0, "%q", ids)
}

// weighs tells that the store can measure data that it does not mount.
func (r *rig) weighs() bool {
	_, meter := r.back.(backend.Meter)
	_, placer := r.back.(backend.Placer)
	return meter || placer
}

// leaving: a removed layer that is kept for its children is measured as if it had its name, and a layer that gc lists as usage
// does.
func leaving(r *rig) {
	r.create("base", "")
	r.write("base", CreateFile("big", bytes.Repeat([]byte("big"), 100_000), 0o644))
	r.create("child", "base")
	was, err := r.store.Usage(r.ctx(), "base")
	assert.NilError(r.t, err)
	orphans, err := r.store.GC(r.ctx(), store.GCOptions{Known: map[string]bool{}})
	assert.NilError(r.t, err)
	assert.Equal(r.t, len(orphans), 2)
	assert.Equal(r.t, orphans[1].Name, "base")
	if !r.weighs() { // only a mount would tell, which a layer that goes does not get
		assert.Assert(r.t, orphans[1].Size == nil)
		return
	}
	assert.Equal(r.t, *orphans[1].Size, was.Size)
	assert.NilError(r.t, r.store.Discard(r.ctx(), "base"))
	list, err := r.store.Leaving(r.ctx())
	assert.NilError(r.t, err)
	assert.Equal(r.t, len(list), 1)
	assert.Equal(r.t, list[0].Name, "base")
	assert.Assert(r.t, list[0].Keeps)
	assert.DeepEqual(r.t, list[0].Usage, was)
	r.remove("child")
	assert.NilError(r.t, awaitDeletions(r.ctx(), r.store))
	list, err = r.store.Leaving(r.ctx())
	assert.NilError(r.t, err)
	assert.Equal(r.t, len(list), 0)
}
