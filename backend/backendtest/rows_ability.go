package backendtest

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"

	"github.com/containerd/errdefs"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/store"
)

// abilityRows are about what a backend may do better than the store, and the store's own way
// where it does not: the outcome is the same.
func abilityRows() []row {
	return []row{
		{name: "usage", run: usage},
		{name: "limit", run: limit},
		{name: "limit can be changed", run: limitChanged},
		{name: "id map", run: idMap},
		{name: "id map of the store", config: func(c *store.Config) { c.IDMap = shifted(100000) }, run: idMapOfStore},
		{name: "id map above other maps", run: idMapMixed},
		{name: "id map without an owner", run: idMapUnmapped},
		{name: "id map changed", run: idMapChanged},
		{name: "clone", run: clone},
		{name: "clone of an applied layer", run: cloneApplied},
		{name: "clone errors", run: cloneErrors},
		{name: "info", run: info},
	}
}

func usage(r *rig) {
	const written, slack = 3 << 20, 512 << 10 // directories, attributes and extents take a little
	r.create("base", "")
	r.write("base", CreateFile("big", Noise(1, 2*written), 0o644))
	r.create("l", "base")
	before := r.usage("l")
	r.write("l", Mkdir("d", 0o755), CreateFile("d/one", Noise(2, written/2), 0o644), Link("d/one", "d/same"), CreateFile("two", Noise(3, written/2), 0o644))
	grown := r.usage("l").Size - before.Size
	assert.Assert(r.t, grown >= written && grown <= written+slack, "%d bytes written, usage grew by %d", written, grown)
	assert.Assert(r.t, before.Size <= slack || wholeTree(r), "an empty layer occupies %d bytes", before.Size)
	r.write("l", Remove("two"))
	shrunk := r.usage("l").Size - before.Size
	assert.Assert(r.t, shrunk >= written/2 && shrunk <= written/2+slack, "after a removal usage is %d above the start", shrunk)
	assert.Assert(r.t, r.usage("base").Size >= 2*written)
}

// wholeTree reports whether a layer without changes may occupy as much as its parent.
func wholeTree(r *rig) bool {
	placer, ok := r.back.(backend.Placer)
	if !ok {
		return true
	}
	place, err := placer.Place(r.ctx(), r.layer("l"))
	assert.NilError(r.t, err)
	return place.Whiteouts == backend.WhiteoutsNone
}

// usage measures a layer after all of it has reached the disk, where delayed allocation ends.
func (r *rig) usage(name string) backend.Usage {
	r.t.Helper()
	assert.NilError(r.t, syncFS(r.dir))
	u, err := r.store.Usage(r.ctx(), name)
	assert.NilError(r.t, err)
	return u
}

// limited creates a layer with a limit; false if neither backend nor file system can.
func (r *rig) limited(name, parent string, bytes int64) bool {
	r.t.Helper()
	err := r.createWith(name, parent, store.CreateOptions{Limit: bytes})
	if err == nil {
		return true
	}
	assert.Assert(r.t, errdefs.IsNotImplemented(err), "a limit that cannot be kept: %v", err)
	_, err = r.store.Stat(r.ctx(), name)
	assert.Assert(r.t, errdefs.IsNotFound(err), "layer of a refused limit: %v", err)
	return false
}

func limit(r *rig) {
	const size = 4 << 20
	r.create("base", "")
	r.write("base", CreateFile("below", Noise(1, 2*size), 0o644))
	if !r.limited("l", "base", size) {
		return
	}
	assert.Equal(r.t, r.stat("l").Limit, int64(size))
	r.create("free", "base")
	r.write("l", CreateFile("fits", Noise(2, size/2), 0o644))
	r.mounted("l", func(dir string) {
		err := CreateFile("too-much", Noise(3, size), 0o644)(dir)
		if err == nil {
			err = syncFS(dir)
		}
		assert.Assert(r.t, noSpace(err), "write above the limit: %v", err)
	})
	r.write("free", CreateFile("unlimited", Noise(4, 2*size), 0o644))
	err := r.createWith("negative", "", store.CreateOptions{Limit: -1})
	assert.Assert(r.t, errdefs.IsInvalidArgument(err), "negative limit: %v", err)
	if r.limited("applied", "base", size) {
		_, err = r.store.Apply(r.ctx(), "applied", bytes.NewReader(bigArchive("big", 2*size)))
		assert.Assert(r.t, noSpace(err), "apply above the limit: %v", err)
		r.remove("applied")
	}
	r.reopen()
	r.mounted("l", func(dir string) {
		err := errors.Join(CreateFile("again", Noise(5, size), 0o644)(dir), syncFS(dir))
		assert.Assert(r.t, noSpace(err), "write above the limit after a reopen: %v", err)
	})
}

// noSpace reports whether err is what the kernel says of a full disk or quota, or its class.
func noSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errdefs.IsResourceExhausted(err)
}

func limitChanged(r *rig) {
	const size = 4 << 20
	if !r.limited("l", "", size) {
		r.create("l", "")
		err := r.store.SetLimit(r.ctx(), "l", size)
		assert.Assert(r.t, errdefs.IsNotImplemented(err), "%v", err)
		return
	}
	assert.NilError(r.t, r.store.SetLimit(r.ctx(), "l", 4*size))
	assert.Equal(r.t, r.stat("l").Limit, int64(4*size))
	r.write("l", CreateFile("f", Noise(1, 2*size), 0o644))
	assert.NilError(r.t, r.store.SetLimit(r.ctx(), "l", 0))
	r.write("l", CreateFile("g", Noise(2, 4*size), 0o644))
}

// shifted maps 65536 owners from 0 on to host IDs from first on.
func shifted(first uint32) *backend.IDMap {
	ranges := []backend.IDRange{{Container: 0, Host: first, Size: 65536}}
	return &backend.IDMap{UIDs: ranges, GIDs: ranges}
}

// up returns the tree with all owners moved up.
func up(t Tree, by uint32) Tree {
	return t.Owners(func(uid, gid uint32) (uint32, uint32) { return uid + by, gid + by })
}

func idMap(r *rig) {
	r.create("plain", "")
	r.write("plain", aSmallTree())
	text := r.diff("plain", "")
	o := store.CreateOptions{IDMap: shifted(100000)}
	assert.NilError(r.t, r.createWith("l", "", o))
	r.apply("l", text)
	r.same(up(rootless(r.tree("plain")), 100000), rootless(r.tree("l")), "mapped layer")
	assert.Equal(r.t, r.tree("l")["."].UID, uint32(100000), "root of the mapped layer")
	assert.Assert(r.t, bytes.Equal(text, r.diff("l", "")), "a diff shows owners as the container does")
	assert.NilError(r.t, r.createWith("child", "l", o))
	r.write("child", CreateFile("mine", nil, 0o644), Chown("mine", 100005, 100006))
	r.fill("unmapped", "plain", r.diff("child", "l"))
	e := r.tree("unmapped")["mine"]
	assert.Equal(r.t, [2]uint32{e.UID, e.GID}, [2]uint32{5, 6})
}

func idMapOfStore(r *rig) {
	r.create("l", "")
	assert.Assert(r.t, r.stat("l").IDMap.Equal(shifted(100000)))
	r.apply("l", archive(file("f", "f")))
	r.create("child", "l")
	e := r.tree("child")["f"]
	assert.Equal(r.t, [2]uint32{e.UID, e.GID}, [2]uint32{100000, 100000})
	assert.Equal(r.t, len(r.changes("child", "l")), 0)
}

// idMapMixed: a layer shows its parents' owners with its own map.
func idMapMixed(r *rig) {
	r.create("base", "")
	r.write("base", aSmallTree(), CreateFile("su", nil, 0o755|modeSetuid), CreateFile("ping", nil, 0o755), SetXattr("ping", "security.capability", capNetRaw))
	want := r.tree("base")
	assert.NilError(r.t, r.createWith("mapped", "base", store.CreateOptions{IDMap: shifted(200000)}))
	r.same(up(withoutPing(want), 200000), withoutPing(r.tree("mapped")), "mapped child")
	r.sameChanges(nil, r.changes("mapped", "base"))
	r.write("mapped", CreateFile("new", nil, 0o644), Chown("new", 200007, 200007), Append("etc/passwd", []byte("x")))
	assert.NilError(r.t, r.createWith("again", "mapped", store.CreateOptions{IDMap: shifted(300000)}))
	again := r.tree("again")
	assert.Equal(r.t, again["new"].UID, uint32(300007))
	assert.Equal(r.t, again["etc/shadow"].GID, uint32(300042))
	r.same(want, r.tree("base"), "base")
	r.fill("flat", "base", r.diff("mapped", "base"))
	r.same(up(withoutPing(r.tree("flat")), 200000), withoutPing(r.tree("mapped")), "unmapped copy")
}

// withoutPing leaves out the root directory and the file whose capability goes with its owner: a
// change of owner takes it away, an ID-mapped mount does not.
func withoutPing(t Tree) Tree {
	t = rootless(t)
	delete(t, "ping")
	return t
}

func idMapUnmapped(r *rig) {
	f := file("f", "f")
	f.Uid = 70000
	assert.NilError(r.t, r.createWith("l", "", store.CreateOptions{IDMap: shifted(100000)}))
	_, err := r.store.Apply(r.ctx(), "l", bytes.NewReader(archive(f)))
	assert.Assert(r.t, errdefs.IsInvalidArgument(err), "owner outside the map: %v", err)
	noRoot := &backend.IDMap{UIDs: []backend.IDRange{{Container: 5, Host: 5, Size: 1}}, GIDs: []backend.IDRange{{Container: 5, Host: 5, Size: 1}}}
	err = r.createWith("m", "", store.CreateOptions{IDMap: noRoot})
	assert.Assert(r.t, errdefs.IsInvalidArgument(err), "map without root: %v", err)
	for name, bad := range map[string]backend.IDRange{
		"beyond 2^32": {Host: 1<<32 - 10, Size: 20}, "up to 2^32": {Host: 1, Size: 1<<32 - 1}, "nothing": {Host: 7},
	} {
		m := &backend.IDMap{UIDs: []backend.IDRange{bad}, GIDs: shifted(1).GIDs}
		err = r.createWith("m", "", store.CreateOptions{IDMap: m})
		assert.Assert(r.t, errdefs.IsInvalidArgument(err), "create, %s: %v", name, err)
		err = r.store.SetIDMap(r.ctx(), "l", m)
		assert.Assert(r.t, errdefs.IsInvalidArgument(err), "set, %s: %v", name, err)
		c := r.cfg
		c.IDMap = m
		_, err = store.Open(r.ctx(), c)
		assert.Assert(r.t, errdefs.IsInvalidArgument(err), "open, %s: %v", name, err)
	}
	r.remove("l")
}

func idMapChanged(r *rig) {
	r.create("base", "")
	r.write("base", aSmallTree())
	r.create("l", "base")
	r.write("l", CreateFile("new", nil, 0o644), Chown("new", 9, 9))
	before := r.tree("l")
	id := r.stat("l").ID
	err := r.store.SetIDMap(r.ctx(), "l", shifted(400000))
	if _, ok := r.back.(backend.Cloner); !ok {
		assert.Assert(r.t, errdefs.IsNotImplemented(err), "%v", err)
		return
	}
	assert.NilError(r.t, err)
	assert.Assert(r.t, r.stat("l").ID != id, "an ID is never used twice")
	assert.Assert(r.t, r.stat("l").IDMap.Equal(shifted(400000)))
	r.same(up(rootless(before), 400000), rootless(r.tree("l")), "after the first change")
	r.fill("copy", "base", r.diff("l", "base"))
	r.same(rootless(before), rootless(r.tree("copy")), "copy of the mapped layer")
	assert.NilError(r.t, r.store.SetIDMap(r.ctx(), "l", nil))
	r.same(rootless(before), rootless(r.tree("l")), "after the second change")
	dir := r.mount("l")
	err = r.store.SetIDMap(r.ctx(), "l", shifted(1))
	assert.Assert(r.t, errdefs.IsFailedPrecondition(err), "map of a mounted layer: %v", err)
	r.unmount("l")
	_, err = os.Stat(dir)
	assert.Assert(r.t, errors.Is(err, os.ErrNotExist), "%v", err)
	noRoot := &backend.IDMap{UIDs: []backend.IDRange{{Container: 5, Host: 5, Size: 1}}, GIDs: []backend.IDRange{{Container: 5, Host: 5, Size: 1}}}
	assert.Assert(r.t, errdefs.IsInvalidArgument(r.store.SetIDMap(r.ctx(), "l", noRoot)), "owners outside the map")
	r.same(rootless(before), rootless(r.tree("l")), "after a change that failed")
	err = r.store.SetIDMap(r.ctx(), "base", shifted(1))
	assert.Assert(r.t, errdefs.IsFailedPrecondition(err), "map of a layer with children: %v", err)
	err = r.store.SetIDMap(r.ctx(), "unknown", nil)
	assert.Assert(r.t, errdefs.IsNotFound(err), "%v", err)
}

func clone(r *rig) {
	threeLayers(r)
	want, text := r.tree("top"), r.diff("top", "middle")
	assert.NilError(r.t, r.store.Clone(r.ctx(), "clone", "top", store.CreateOptions{}))
	assert.Assert(r.t, r.stat("top").Sealed, "a template is sealed")
	assert.Equal(r.t, r.stat("clone").Parent, "middle")
	r.same(rootless(want), rootless(r.tree("clone")), "clone")
	r.write("clone", CreateFile("own", nil, 0o644), RemoveAll("etc"))
	r.same(want, r.tree("top"), "template after its clone was written")
	assert.Assert(r.t, bytes.Equal(text, r.diff("top", "middle")), "diff of the template")
	r.remove("top")
	assert.Equal(r.t, len(rootless(r.tree("clone"))), 4+2-2, "clone without its template")
}

func cloneApplied(r *rig) {
	text := archive(directory("d"), file("d/f", "one"), file("d/f", "two"), link("d/f", "l"))
	r.fill("template", "", text)
	assert.NilError(r.t, r.store.Clone(r.ctx(), "clone", "template", store.CreateOptions{Labels: map[string]string{"a": "b"}}))
	r.same(rootless(r.tree("template")), rootless(r.tree("clone")), "clone")
	assert.Equal(r.t, r.stat("clone").Labels["a"], "b")
	r.write("clone", Append("d/f", []byte("more")))
	assert.Assert(r.t, bytes.Equal(text, r.diff("template", "")))
	r.fill("copy", "", r.diff("clone", ""))
	r.same(rootless(r.tree("clone")), rootless(r.tree("copy")), "copy of the written clone")
}

func cloneErrors(r *rig) {
	r.create("l", "")
	err := r.store.Clone(r.ctx(), "c", "unknown", store.CreateOptions{})
	assert.Assert(r.t, errdefs.IsNotFound(err), "%v", err)
	err = r.store.Clone(r.ctx(), "l", "l", store.CreateOptions{})
	assert.Assert(r.t, errdefs.IsAlreadyExists(err), "%v", err)
	assert.DeepEqual(r.t, r.names(), []string{"l"})
}

func info(r *rig) {
	r.create("a", "")
	r.create("b", "a")
	r.mount("b")
	i, err := r.store.Info(r.ctx())
	assert.NilError(r.t, err)
	assert.Equal(r.t, i.Backend, r.f.Backend)
	assert.Equal(r.t, i.Root, r.cfg.Root)
	assert.Equal(r.t, i.Layers[store.StateReady], 2)
	assert.Equal(r.t, i.Mounted, 1)
	assert.Assert(r.t, len(i.Abilities) > 0)
	_, err = os.Stat(filepath.Join(i.Root, "strata.json"))
	assert.NilError(r.t, err)
	r.unmount("b")
}
