package backendtest

import (
	"bytes"
	"os"
	"strings"

	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/internal/loopfs"
)

// contractRows call the backend itself: what package backend promises beyond what the store needs
// on an ordinary day.
func contractRows() []row {
	return []row{
		{name: "backend create twice", run: createTwice},
		{name: "backend remove repeated", run: removeRepeated},
		{name: "backend reads are repeatable", run: readsRepeatable},
		{name: "backend describes mounts only", run: describesOnly},
		{name: "backend remove stops at mounts", run: removeStopsAtMounts},
		{name: "backend names the layer in errors", run: namesLayer},
		{name: "backend lists what is there", run: listsAll},
		{name: "backend constructor repeated", run: constructorRepeated},
		{name: "root attributes of a child", run: rootAttributes},
	}
}

// Two IDs that the store cannot have made: its own are longer.
const (
	idOne = "direct1"
	idTwo = "direct2"
)

// createTwice: a repeated Create has the effect of one complete call.
func createTwice(r *rig) {
	r.create("base", "")
	r.write("base", aSmallTree())
	r.create("sealer", "base")
	l := backend.Layer{ID: idOne, Parents: []backend.Parent{{ID: r.stat("base").ID}}}
	for range 2 {
		assert.NilError(r.t, r.back.Create(r.ctx(), l))
	}
	if s, ok := r.back.(backend.Sealer); ok {
		for range 2 {
			assert.NilError(r.t, s.Seal(r.ctx(), l), "seal")
		}
	}
	first, err := r.back.Mounts(r.ctx(), l, backend.MountOptions{ReadOnly: true})
	assert.NilError(r.t, err)
	assert.Assert(r.t, len(first) > 0)
	for range 2 {
		assert.NilError(r.t, r.back.Remove(r.ctx(), l))
	}
	r.same(r.tree("base"), r.tree("sealer"), "the parent's other child")
}

func removeRepeated(r *rig) {
	for range 2 {
		assert.NilError(r.t, r.back.Remove(r.ctx(), backend.Layer{ID: idOne}), "remove of nothing")
	}
	withParent := backend.Layer{ID: idOne, Parents: []backend.Parent{{ID: "gone1"}, {ID: "gone2"}}}
	assert.NilError(r.t, r.back.Remove(r.ctx(), withParent), "remove of nothing whose parents are gone")
	if err := r.back.Create(r.ctx(), withParent); err == nil {
		r.t.Error("Create on top of parents that do not exist succeeded")
	}
	assert.NilError(r.t, r.back.Remove(r.ctx(), withParent), "remove of what a failed Create left")
	assert.DeepEqual(r.t, surplus(r.home, r.listHome(), ""), []string(nil))
}

// readsRepeatable: whatever only reads may be called twice and says the same.
func readsRepeatable(r *rig) {
	threeLayers(r)
	l := r.layer("top")
	first, err := r.back.Mounts(r.ctx(), l, backend.MountOptions{})
	assert.NilError(r.t, err)
	second, err := r.back.Mounts(r.ctx(), l, backend.MountOptions{})
	assert.NilError(r.t, err)
	assert.DeepEqual(r.t, first, second)
	var a, b bytes.Buffer
	assert.NilError(r.t, r.store.Diff(r.ctx(), "top", "middle", &a))
	assert.NilError(r.t, r.store.Diff(r.ctx(), "top", "middle", &b))
	assert.Assert(r.t, a.Len() > 0 && bytes.Equal(a.Bytes(), b.Bytes()))
	if c, ok := r.back.(backend.Changer); ok {
		want := Changes(r.tree("middle"), r.tree("top"))
		for range 2 {
			got, err := Collect(c.Changes(r.ctx(), l))
			assert.NilError(r.t, err)
			r.sameChanges(want, got)
		}
		for _, err := range c.Changes(r.ctx(), l) { // a caller may stop early
			assert.NilError(r.t, err)
			break
		}
	}
	if m, ok := r.back.(backend.Meter); ok {
		a, err := m.Usage(r.ctx(), l)
		assert.NilError(r.t, err)
		b, err := m.Usage(r.ctx(), l)
		assert.NilError(r.t, err)
		assert.Equal(r.t, a, b)
	}
}

// describesOnly: Mounts mounts nothing and changes nothing.
func describesOnly(r *rig) {
	threeLayers(r)
	before, err := loopfs.MountsBelow(r.cfg.Root)
	assert.NilError(r.t, err)
	files := r.readTree(r.env.Home)
	for _, name := range []string{"base", "middle", "top"} {
		for _, o := range []backend.MountOptions{{}, {ReadOnly: true}} {
			m, err := r.back.Mounts(r.ctx(), r.layer(name), o)
			assert.NilError(r.t, err)
			assert.Assert(r.t, len(m) > 0)
		}
	}
	after, err := loopfs.MountsBelow(r.cfg.Root)
	assert.NilError(r.t, err)
	assert.DeepEqual(r.t, before, after)
	r.same(files, r.readTree(r.env.Home), "the backend's directory")
}

// removeStopsAtMounts: whatever Remove does about a layer in which something is mounted, what is
// mounted there stays whole.
func removeStopsAtMounts(r *rig) {
	placer, ok := r.back.(backend.Placer)
	if !ok {
		return // its directory is unknown
	}
	l := backend.Layer{ID: idTwo}
	assert.NilError(r.t, r.back.Create(r.ctx(), l))
	place, err := placer.Place(r.ctx(), l)
	assert.NilError(r.t, err)
	assert.NilError(r.t, Steps(MkdirAll("a/point"), MkdirAll("b"), CreateFile("z", nil, 0o644))(place.Dir))
	precious := r.newPlain()
	assert.NilError(r.t, aSmallTree()(precious))
	want := r.readTree(precious)
	loopfs.Command(r.t, "mount", "--bind", precious, place.Dir+"/a/point")
	err = r.back.Remove(r.ctx(), l)
	below, lerr := loopfs.MountsBelow(place.Dir)
	assert.NilError(r.t, lerr)
	if len(below) > 0 {
		loopfs.Command(r.t, "umount", place.Dir+"/a/point")
	}
	r.same(want, r.readTree(precious), "what was mounted in the layer")
	assert.Assert(r.t, err != nil || len(below) == 0, "Remove says it is done, but the mount is still there")
	assert.NilError(r.t, r.back.Remove(r.ctx(), l))
}

func namesLayer(r *rig) {
	missing := backend.Layer{ID: "missing7", Parents: []backend.Parent{{ID: "missing8"}}}
	err := r.back.Create(r.ctx(), missing)
	assert.Assert(r.t, err != nil && strings.Contains(err.Error(), "missing"), "%v", err)
	assert.NilError(r.t, r.back.Remove(r.ctx(), missing))
}

func listsAll(r *rig) {
	lister, ok := r.back.(backend.Lister)
	if !ok {
		return
	}
	threeLayers(r)
	ids, err := lister.List(r.ctx())
	assert.NilError(r.t, err)
	want := map[string]bool{}
	for _, n := range r.names() {
		want[r.stat(n).ID] = true
	}
	got := map[string]bool{}
	for _, id := range ids {
		got[id] = true
	}
	assert.DeepEqual(r.t, want, got)
	assert.Equal(r.t, len(ids), len(got), "an ID is listed twice")
}

// constructorRepeated: a second backend on the same directory finds what the first one made.
func constructorRepeated(r *rig) {
	threeLayers(r)
	l := r.layer("top")
	second, err := r.f.New(r.ctx(), r.env)
	assert.NilError(r.t, err)
	a, err := r.back.Mounts(r.ctx(), l, backend.MountOptions{})
	assert.NilError(r.t, err)
	b, err := second.Mounts(r.ctx(), l, backend.MountOptions{})
	assert.NilError(r.t, err)
	assert.DeepEqual(r.t, a, b)
	if c, ok := second.(backend.Closer); ok {
		assert.NilError(r.t, c.Close())
	}
}

// rootAttributes: a child's root looks like its parent's, a base layer's root is 0755 and root's.
func rootAttributes(r *rig) {
	r.create("base", "")
	root := r.tree("base")["."]
	assert.Equal(r.t, root.Mode, os.ModeDir|0o755)
	assert.Equal(r.t, [2]uint32{root.UID, root.GID}, [2]uint32{0, 0})
	r.write("base", Chmod(".", 0o711|modeSticky), Chown(".", 21, 22), SetXattr(".", "user.r", "1"))
	want := r.tree("base")["."]
	parent := "base"
	for i := range 3 {
		r.create(chainName(i), parent)
		assert.DeepEqual(r.t, r.tree(chainName(i))["."], want)
		parent = chainName(i)
	}
}
