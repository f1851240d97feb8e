package backendtest

import (
	"bytes"
	"fmt"
	"maps"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/internal/loopfs"
	"strata/backend/store"
)

// snapshotRows are about what a snapshotter does with layers.
func snapshotRows() []row {
	return []row{
		{name: "commit", run: commit},
		{name: "commit errors", run: commitErrors},
		{name: "commit against remove", run: commitAgainstRemove},
		{name: "commit on a late parent", run: commitLate},
		{name: "unpack", run: unpack},
		{name: "drafts", run: drafts},
		{name: "links", run: links},
		{name: "mounts for others", run: mountsForOthers},
		{name: "lent layers", run: lentLayers},
		{name: "labels", run: labels},
		{name: "long labels", run: longLabels},
		{name: "labels in parallel", run: labelsInParallel},
	}
}

func (r *rig) commit(name, as string) {
	r.t.Helper()
	assert.NilError(r.t, r.store.Commit(r.ctx(), name, as, store.CommitOptions{}), "commit %s as %s", name, as)
}

func commit(r *rig) {
	r.create("base", "")
	r.write("base", aSmallTree())
	r.commit("base", "image")
	r.create("draft", "image")
	r.write("draft", CreateFile("new", []byte("new"), 0o644), Mkdir("dir", 0o755))
	before, was := r.stat("draft"), r.tree("draft")
	assert.NilError(r.t, r.store.Commit(r.ctx(), "draft", "done", store.CommitOptions{Labels: map[string]string{"a": "b"}, Parent: "image"}))
	for range 2 {
		after := r.stat("done")
		assert.Equal(r.t, after.ID, before.ID, "nothing is copied")
		assert.Equal(r.t, after.Parent, "image")
		assert.Assert(r.t, after.Sealed)
		assert.DeepEqual(r.t, after.Labels, map[string]string{"a": "b"})
		assert.DeepEqual(r.t, r.names(), []string{"done", "image"})
		r.same(was, r.tree("done"), "committed layer")
		r.mounted("done", func(dir string) { assert.Assert(r.t, CreateFile("x", nil, 0o644)(dir) != nil, "it is read-only") })
		r.sameChanges([]backend.Change{{Path: "/dir", Kind: backend.Added}, {Path: "/new", Kind: backend.Added}}, r.changes("done", "image"))
		r.reopen()
	}
	r.create("draft", "done") // the old name is free
}

func commitErrors(r *rig) {
	r.create("base", "")
	r.create("l", "base")
	r.create("other", "")
	r.mount("other")
	for _, tc := range []struct {
		name, as, parent string
		is               func(error) bool
	}{
		{"unknown", "x", "", errdefs.IsNotFound},
		{"l", "other", "", errdefs.IsAlreadyExists},
		{"l", "l", "", errdefs.IsAlreadyExists},
		{"l", "", "", errdefs.IsInvalidArgument},
		{"l", "x", "unknown", errdefs.IsNotFound},
		{"l", "x", "other", errdefs.IsInvalidArgument},
		{"base", "x", "", errdefs.IsFailedPrecondition},  // sealed
		{"other", "x", "", errdefs.IsFailedPrecondition}, // mounted
	} {
		err := r.store.Commit(r.ctx(), tc.name, tc.as, store.CommitOptions{Parent: tc.parent})
		assert.Assert(r.t, tc.is(err), "commit %s as %s on %s: %v", tc.name, tc.as, tc.parent, err)
	}
	assert.DeepEqual(r.t, r.names(), []string{"base", "l", "other"})
	r.write("l", CreateFile("f", nil, 0o644))
	r.unmount("other")
}

// commitAgainstRemove: of a commit and a removal at once, one wins, and an acknowledged commit is there.
func commitAgainstRemove(r *rig) {
	for i := range 10 {
		name, as := fmt.Sprint("draft", i), fmt.Sprint("done", i)
		r.create(name, "")
		removed := make(chan error, 1)
		go func() { removed <- r.store.Remove(r.ctx(), name) }()
		committed := r.store.Commit(r.ctx(), name, as, store.CommitOptions{})
		err := <-removed
		assert.Assert(r.t, err == nil || errdefs.IsUnavailable(err), "%v", err)
		_, err = r.store.Stat(r.ctx(), as)
		assert.Equal(r.t, err == nil, committed == nil, "commit: %v, then: %v", committed, err)
		_, err = r.store.Stat(r.ctx(), name)
		assert.Assert(r.t, errdefs.IsNotFound(err), "%v", err)
	}
}

// lateLayers are archives of which each means what it means only on top of the one before it.
func lateLayers() [][]byte {
	return [][]byte{
		archive(directory("d"), file("d/kept", "1"), file("d/gone", "1"), directory("o"), file("o/old", "1"), file("top", "1"), directory("t"), file("t/f", "1")),
		archive(directory("d"), file("d/.wh.gone", ""), directory("o"), file("o/.wh..wh..opq", ""), file("o/new", "2"), file(".wh.t", ""), file(".wh.never", "")),
		archive(file("t", "3"), file("d/gone", "3"), file(".wh.top", ""), directory("o"), file("o/more", "3")),
	}
}

// commitLate unpacks layers in any order and commits them on each other, as containerd does when it unpacks in
// parallel.
func commitLate(r *rig) {
	r.create("mode", "")
	r.write("mode", Chmod(".", 0o751))
	r.commit("mode", "base")
	late, top := lateLayers(), "base"
	for i := len(late) - 1; i >= 0; i-- {
		name := fmt.Sprint("late", i)
		assert.NilError(r.t, r.store.Create(r.ctx(), name, "", store.CreateOptions{Detached: true}))
		_, err := r.store.Unpack(r.ctx(), name, bytes.NewReader(late[i]))
		assert.NilError(r.t, err)
	}
	parent := "base"
	for i := range late {
		name, as := fmt.Sprint("late", i), fmt.Sprint("done", i)
		err := r.store.Commit(r.ctx(), name, as, store.CommitOptions{Parent: parent})
		if errdefs.IsNotImplemented(err) {
			assert.ErrorContains(r.t, err, "capabilities")
			assert.Equal(r.t, r.stat(name).Parent, "")
			r.write(name, CreateFile("still usable", nil, 0o644))
			return
		}
		assert.NilError(r.t, err)
		parent = as
		r.fill(fmt.Sprint("straight", i), top, late[i])
		top = fmt.Sprint("straight", i)
	}
	r.reopen()
	for i := range late {
		r.same(r.tree(fmt.Sprint("straight", i)).WithoutClock(), r.tree(fmt.Sprint("done", i)).WithoutClock(), fmt.Sprint("late layer ", i))
	}
	assert.Equal(r.t, r.stat("done2").Parent, "done1")
	// Deletions mean nothing in a layer that gets no parent in the end.
	assert.NilError(r.t, r.store.Create(r.ctx(), "alone", "", store.CreateOptions{Detached: true}))
	_, err := r.store.Unpack(r.ctx(), "alone", bytes.NewReader(late[1]))
	assert.NilError(r.t, err)
	r.commit("alone", "base layer")
	r.fill("straight", "", late[1])
	r.same(r.tree("straight").WithoutClock(), r.tree("base layer").WithoutClock(), "base layer")
	err = r.store.Remove(r.ctx(), "done1")
	assert.Assert(r.t, errdefs.IsFailedPrecondition(err), "%v", err)
}

func unpack(r *rig) {
	late := lateLayers()
	r.fill("base", "", late[0])
	r.fill("want", "base", late[1])
	r.create("l", "base")
	a, err := r.store.Unpack(r.ctx(), "l", bytes.NewReader(late[1]))
	assert.NilError(r.t, err)
	assert.DeepEqual(r.t, a, store.Applied{Size: r.stat("want").Applied.Size, Bytes: int64(len(late[1])), Digest: "sha256:" + digest(late[1])})
	r.same(r.tree("want").WithoutClock(), r.tree("l").WithoutClock(), "unpacked")
	assert.Assert(r.t, !r.stat("l").Sealed)
	r.write("l", CreateFile("mine", nil, 0o644))
	_, err = r.store.Unpack(r.ctx(), "l", bytes.NewReader(late[2]))
	assert.NilError(r.t, err)
	_, found := r.tree("l")["mine"]
	assert.Assert(r.t, found, "what was there stays")
	_, err = r.store.Unpack(r.ctx(), "base", bytes.NewReader(late[1]))
	assert.Assert(r.t, errdefs.IsFailedPrecondition(err), "%v", err)
	// A torn stream leaves a layer that can only be removed.
	_, err = r.store.Unpack(r.ctx(), "l", bytes.NewReader(late[1][:700]))
	assert.Assert(r.t, err != nil)
	err = r.store.Commit(r.ctx(), "l", "x", store.CommitOptions{})
	assert.Assert(r.t, errdefs.IsFailedPrecondition(err), "%v", err)
	r.remove("l")
}

// drafts are layers like others to all but a power cut.
func drafts(r *rig) {
	late := lateLayers()
	draft := store.CreateOptions{Draft: true}
	r.fill("base", "", late[0])
	r.fill("want", "base", late[1])
	assert.NilError(r.t, r.store.Create(r.ctx(), "l", "base", draft))
	r.reopen()
	assert.NilError(r.t, r.label("l", map[string]string{"a": "1"}))
	_, err := r.store.Unpack(r.ctx(), "l", bytes.NewReader(late[1]))
	assert.NilError(r.t, err)
	r.reopen()
	r.same(r.tree("want").WithoutClock(), r.tree("l").WithoutClock(), "draft")
	r.commit("l", "done")
	r.reopen()
	assert.DeepEqual(r.t, r.names(), []string{"base", "done", "want"})
	r.same(r.tree("want").WithoutClock(), r.tree("done").WithoutClock(), "committed draft")
	// A child makes an end of it, too.
	assert.NilError(r.t, r.store.Create(r.ctx(), "parent", "base", draft))
	r.write("parent", CreateFile("f", nil, 0o644))
	r.create("child", "parent")
	assert.NilError(r.t, r.store.Create(r.ctx(), "mapped", "base", draft))
	assert.NilError(r.t, canDo(r.store.SetIDMap(r.ctx(), "mapped", shifted(100000))))
	assert.NilError(r.t, r.store.Create(r.ctx(), "gone", "base", draft))
	r.remove("gone")
	r.reopen()
	assert.DeepEqual(r.t, r.names(), []string{"base", "child", "done", "mapped", "parent", "want"})
}

func links(r *rig) {
	r.create("base", "")
	r.create("l", "base")
	r.write("l", aSmallTree())
	was := r.tree("l")
	assert.NilError(r.t, r.store.Link(r.ctx(), "view", "l", map[string]string{"kind": "view"}))
	assert.NilError(r.t, r.store.Link(r.ctx(), "again", "view", nil))
	for range 2 {
		info := r.stat("view")
		assert.Assert(r.t, info.Link && info.Sealed)
		assert.Equal(r.t, info.Parent, "l")
		assert.Equal(r.t, r.stat("again").Parent, "view")
		assert.Equal(r.t, r.usage("view"), r.usage("l"))
		r.same(was, r.tree("again"), "link")
		assert.Equal(r.t, len(r.changes("again", "l")), 0)
		assert.Assert(r.t, bytes.Equal(r.diff("again", "base"), r.diff("l", "base")))
		r.reopen()
	}
	for name, is := range map[string]func(error) bool{"l": errdefs.IsFailedPrecondition, "view": errdefs.IsFailedPrecondition} {
		err := r.store.Remove(r.ctx(), name)
		assert.Assert(r.t, is(err), "remove %s: %v", name, err)
	}
	err := r.store.Link(r.ctx(), "again", "l", nil)
	assert.Assert(r.t, errdefs.IsAlreadyExists(err), "%v", err)
	err = r.store.Link(r.ctx(), "x", "unknown", nil)
	assert.Assert(r.t, errdefs.IsNotFound(err), "%v", err)
	// A child of a link is one of the layer.
	r.create("child", "again")
	r.write("child", CreateFile("own", nil, 0o644))
	r.sameChanges([]backend.Change{{Path: "/own", Kind: backend.Added}}, r.changes("child", "l"))
	// A layer that its client has forgotten stays as long as somebody else has a name for it.
	assert.NilError(r.t, r.store.Discard(r.ctx(), "l"))
	r.same(was, r.tree("view"), "link to a forgotten layer")
	r.remove("child")
	r.remove("again")
	r.remove("view")
	assert.DeepEqual(r.t, r.names(), []string{"base"})
	// A link to a layer that gives back its tar does so, too, and takes nothing of it away.
	tar := lateLayers()[0]
	r.fill("applied", "", tar)
	assert.NilError(r.t, r.store.Link(r.ctx(), "link", "applied", nil))
	assert.Assert(r.t, bytes.Equal(r.diff("link", ""), tar))
	r.remove("link")
	assert.NilError(r.t, r.store.Settle(r.ctx()))
	assert.Assert(r.t, bytes.Equal(r.diff("applied", ""), tar))
}

// mountsForOthers lets containerd's code mount layers as the store says.
func mountsForOthers(r *rig) {
	r.create("base", "")
	r.write("base", aSmallTree())
	r.create("middle", "base")
	r.write("middle", CreateFile("middle", nil, 0o644))
	r.create("top", "middle")
	assert.NilError(r.t, r.store.Create(r.ctx(), "detached", "", store.CreateOptions{Detached: true}))
	_, err := r.store.Unpack(r.ctx(), "detached", bytes.NewReader(lateLayers()[0]))
	assert.NilError(r.t, err)
	for _, name := range []string{"top", "base", "middle", "detached"} {
		want := r.tree(name)
		r.mountedAbroad(name, false, func(dir string) {
			r.same(want, r.readTree(dir), name)
			err := CreateFile("written", []byte("x"), 0o644)(dir)
			assert.Equal(r.t, err == nil, !r.stat(name).Sealed, "write to %s: %v", name, err)
		})
	}
	r.mountedAbroad("top", true, func(dir string) {
		assert.Assert(r.t, CreateFile("f", nil, 0o644)(dir) != nil, "it is read-only")
	})
	r.sameChanges([]backend.Change{{Path: "/written", Kind: backend.Added}}, r.changes("top", "middle"))
	_, err = r.store.Mounts(r.ctx(), "unknown", store.MountOptions{})
	assert.Assert(r.t, errdefs.IsNotFound(err), "%v", err)
}

// lentLayers: what a backend prepares for mounts of others is there as long as they may need it, restarts included, and
// no longer.
func lentLayers(r *rig) {
	r.create("base", "")
	r.write("base", aSmallTree())
	r.create("image", "base")
	r.commit("image", "done")
	want := r.tree("done")
	for _, name := range []string{"view1", "view2"} {
		assert.NilError(r.t, r.store.Link(r.ctx(), name, "done", nil))
	}
	r.create("rw", "done")
	r.create("other", "done")
	for _, name := range []string{"view1", "view2", "rw", "other"} {
		r.mountedAbroad(name, false, func(dir string) {
			r.same(want, r.readTree(dir), name)
			r.reopen()
			r.same(want, r.readTree(dir), name+" after a restart")
			r.mountedAbroad(name, false, func(again string) { r.same(want, r.readTree(again), name) })
			r.same(want, r.tree(name), name+" mounted here, too")
			r.same(want, r.readTree(dir), name+" when that has ended")
		})
	}
	// One after the other ends, and none takes away what another needs.
	ends := []func(){
		func() { r.remove("view1") },
		func() { r.commit("other", "other done") },
		func() { r.remove("view2") },
	}
	r.mountedAbroad("rw", false, func(dir string) {
		for _, end := range ends {
			end()
			r.same(want, r.readTree(dir), "rw")
		}
	})
	_, err := r.store.Mounts(r.ctx(), "base", store.MountOptions{Describe: true})
	assert.NilError(r.t, err)
	r.remove("rw")
	r.inactive()
	r.create("again", "done")
	r.mountedAbroad("again", false, func(dir string) { r.same(want, r.readTree(dir), "again") })
	r.reopen()
	r.remove("again")
	r.inactive()
}

// inactive fails the test if the backend has something prepared for a mount.
func (r *rig) inactive() {
	r.t.Helper()
	left, err := loopfs.MountsBelow(r.env.Active)
	assert.NilError(r.t, err)
	assert.Equal(r.t, len(left), 0, "%q", left)
}

// mountedAbroad calls f with a directory on which containerd's code has mounted the layer.
func (r *rig) mountedAbroad(name string, readOnly bool, f func(dir string)) {
	r.t.Helper()
	mounts, err := r.store.Mounts(r.ctx(), name, store.MountOptions{ReadOnly: readOnly})
	assert.NilError(r.t, err)
	dir := r.newPlain()
	list := make([]mount.Mount, 0, len(mounts))
	for _, m := range mounts {
		list = append(list, mount.Mount{Type: m.Type, Source: m.Source, Options: m.Options})
	}
	assert.NilError(r.t, mount.All(list, dir), "mount %s: %v", name, list)
	defer func() { assert.NilError(r.t, mount.UnmountAll(dir, 0)) }()
	f(dir)
}

// label replaces a layer's labels.
func (r *rig) label(name string, labels map[string]string) error {
	_, err := r.store.UpdateLabels(r.ctx(), name, func(old map[string]string) error {
		clear(old)
		maps.Copy(old, labels)
		return nil
	})
	return err
}

func labels(r *rig) {
	assert.NilError(r.t, r.store.Create(r.ctx(), "l", "", store.CreateOptions{Labels: map[string]string{"a": "1"}}))
	assert.NilError(r.t, r.label("l", map[string]string{"b": "2"}))
	r.create("child", "l")
	assert.NilError(r.t, r.label("l", map[string]string{"b": "3", "c": ""}), "sealed layers have labels, too")
	r.reopen()
	assert.DeepEqual(r.t, r.stat("l").Labels, map[string]string{"b": "3", "c": ""})
	i, err := r.store.UpdateLabels(r.ctx(), "l", func(labels map[string]string) error {
		labels["d"] = "4"
		return nil
	})
	assert.NilError(r.t, err)
	assert.DeepEqual(r.t, i, r.stat("l"))
	assert.DeepEqual(r.t, i.Labels, map[string]string{"b": "3", "c": "", "d": "4"})
	_, err = r.store.UpdateLabels(r.ctx(), "l", func(labels map[string]string) error {
		clear(labels)
		return errdefs.ErrConflict
	})
	assert.Assert(r.t, errdefs.IsConflict(err), "%v", err)
	assert.DeepEqual(r.t, r.stat("l").Labels, i.Labels)
	assert.NilError(r.t, r.label("l", nil))
	assert.Equal(r.t, len(r.stat("l").Labels), 0)
	err = r.label("unknown", nil)
	assert.Assert(r.t, errdefs.IsNotFound(err), "%v", err)
}

// longLabels are refused wherever labels are given, and change nothing.
func longLabels(r *rig) {
	many := map[string]string{}
	for i := range 33 {
		many[fmt.Sprintf("%04d", i)] = strings.Repeat("v", 4092)
	}
	most := maps.Clone(many)
	delete(most, "0000")
	allowed := []map[string]string{most, {"k": strings.Repeat("v", 4095)}}
	refused := []map[string]string{many, {"k": strings.Repeat("v", 4096)}, {strings.Repeat("k", 4097): ""}, {"": "v"}}
	r.create("base", "")
	r.commit("base", "image")
	r.create("l", "image")
	for _, labels := range allowed {
		assert.NilError(r.t, r.label("l", labels))
		assert.NilError(r.t, r.store.Create(r.ctx(), "x", "image", store.CreateOptions{Labels: labels}))
		assert.NilError(r.t, r.store.Link(r.ctx(), "y", "image", labels))
		assert.NilError(r.t, r.store.Commit(r.ctx(), "x", "z", store.CommitOptions{Labels: labels}))
		r.reopen()
		for _, name := range []string{"l", "y", "z"} {
			assert.DeepEqual(r.t, r.stat(name).Labels, labels)
		}
		r.remove("z")
		r.remove("y")
	}
	before := r.stat("l")
	for _, labels := range refused {
		for what, err := range map[string]error{
			"update": r.label("l", labels),
			"create": r.store.Create(r.ctx(), "x", "image", store.CreateOptions{Labels: labels}),
			"clone":  r.store.Clone(r.ctx(), "x", "image", store.CreateOptions{Labels: labels}),
			"link":   r.store.Link(r.ctx(), "x", "image", labels),
			"commit": r.store.Commit(r.ctx(), "l", "x", store.CommitOptions{Labels: labels}),
		} {
			assert.Assert(r.t, errdefs.IsInvalidArgument(err), "%s: %v", what, err)
		}
	}
	assert.DeepEqual(r.t, r.stat("l"), before)
	assert.DeepEqual(r.t, r.names(), []string{"image", "l"})
}

// labelsInParallel: no change of labels undoes another, and none goes to a layer that has got another name meanwhile.
func labelsInParallel(r *rig) {
	const rounds, workers = 20, 8
	for round := range rounds {
		draft, done := fmt.Sprint("draft", round), fmt.Sprint("done", round)
		r.create(draft, "")
		var g errgroup.Group
		for w := range workers {
			g.Go(func() error {
				_, err := r.store.UpdateLabels(r.ctx(), draft, func(labels map[string]string) error {
					labels[fmt.Sprint(w)] = ""
					return nil
				})
				return err
			})
		}
		assert.NilError(r.t, g.Wait())
		assert.Equal(r.t, len(r.stat(draft).Labels), workers)
		for range workers {
			g.Go(func() error {
				if err := r.label(draft, map[string]string{"late": ""}); !errdefs.IsNotFound(err) {
					return err
				}
				return nil
			})
		}
		g.Go(func() error {
			return r.store.Commit(r.ctx(), draft, done, store.CommitOptions{Labels: map[string]string{"committed": ""}})
		})
		assert.NilError(r.t, g.Wait())
		assert.DeepEqual(r.t, r.stat(done).Labels, map[string]string{"committed": ""})
	}
}
