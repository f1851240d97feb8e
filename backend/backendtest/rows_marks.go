package backendtest

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"gotest.tools/v3/assert"

	"strata/backend/store"
)

// markRows are about what layers do to those below them: parents that a tar only implies, and whiteouts.
func markRows() []row {
	return []row{
		{name: "marks", run: marks},
		{name: "implied parents", run: impliedParents},
		{name: "implied parents of another id map", run: impliedMapped},
		{name: "layers refused for what is below", run: refusedForBelow},
		{name: "random layers", run: randomLayers},
		{name: "random layers without exact diffs", config: func(c *store.Config) { c.ExactDiffs = false }, run: randomLayers},
	}
}

// markCase is a number of layers and what they show together: names of directories end in a slash.
type markCase struct {
	name   string
	layers [][]member
	want   []string
}

func members(m ...member) []member { return m }

// odd is a directory that no default would make.
func oddDirectory(name string) member {
	m := directory(name)
	m.Mode, m.Uid, m.Gid = 0o700, 1000, 1000
	m.PAXRecords = map[string]string{"SCHILY.xattr.user.k": "v"}
	return m
}

func markCases() []markCase {
	return slices.Concat(whiteoutCases(), opaqueCases(), throughCases(), lateLinkCases())
}

func whiteoutCases() []markCase {
	t := members(directory("t"), file("t/t", "1"), file("t/u", "1"))
	wh, inner := file(".wh.t", ""), file("t/.wh.t", "")
	return []markCase{
		{"deleted twice", [][]member{t, {wh, inner}}, nil},
		{"deleted twice, inner first", [][]member{t, {inner, wh}}, nil},
		{"deleted, made again, deleted within", [][]member{t, {wh, directory("t"), inner, file("t/new", "22")}}, []string{"t/", "t/new=2"}},
		{"deleted and made again", [][]member{t, {wh, directory("t"), file("t/new", "22")}}, []string{"t/", "t/new=2"}},
		{"made again and deleted", [][]member{t, {directory("t"), file("t/new", "22"), wh}}, []string{"t/", "t/new=2"}},
		{"made again without a name, and deleted", [][]member{t, {file("t/new", "22"), wh}}, []string{"t/", "t/new=2"}},
		{"deleted between", [][]member{t, {directory("t"), file("t/one", "22"), wh, file("t/two", "22"), wh}}, []string{"t/", "t/one=2", "t/two=2"}},
		{"deleted file that the layer has", [][]member{t, {file("t/t", "22"), inner}}, []string{"t/", "t/t=2", "t/u=1"}},
		{"in a new directory", [][]member{t, {directory("brandnew"), file("brandnew/.wh.x", "")}}, []string{"brandnew/", "t/", "t/t=1", "t/u=1"}},
		{
			"of nothing",
			[][]member{t, {file("n/.wh.x", ""), file("t/n/.wh.x", ""), file("t/t/.wh.x", ""), file("n/.wh..wh..opq", "")}},
			[]string{"t/", "t/t=1", "t/u=1"},
		},
		{"then a late link", [][]member{t, {link("x", "t/late"), wh, file("x", "22")}}, []string{"t/", "t/late=2", "x=2"}},
		{"in a directory that the layer replaces", [][]member{
			{directory("a"), file("a/a", "1")}, {directory("n"), file("n/a", "22"), sym("n", "a"), file("a/.wh.a", "")},
		}, []string{"a->n", "n/", "n/a=2"}},
		{"again in the third layer", [][]member{t, {wh}, {file("t/new", "333")}}, []string{"t/", "t/new=3"}},
		{"of what the second layer has deleted", [][]member{t, {wh}, {wh, inner}}, nil},
		{"of the first layer, the second having one of the same name", [][]member{t, {oddDirectory("t"), file("t/s", "22")}, {file("t/x", "333"), wh}}, []string{"t/", "t/x=3"}},
	}
}

func opaqueCases() []markCase {
	t := members(directory("t"), file("t/t", "1"), oddDirectory("t/s"), file("t/s/x", "1"))
	opq := file("t/.wh..wh..opq", "")
	root := file(".wh..wh..opq", "")
	return []markCase{
		{"opaque, deleted within", [][]member{t, {directory("t"), opq, file("t/.wh.t", ""), file("t/new", "22")}}, []string{"t/", "t/new=2"}},
		{"opaque last", [][]member{t, {directory("t"), file("t/new", "22"), opq}}, []string{"t/", "t/new=2"}},
		{
			"opaque without a directory",
			[][]member{{oddDirectory("h"), file("h/x", "1")}, {file("h/.wh..wh..opq", ""), file("h/f", "22")}},
			[]string{"h/ 0700 1000:1000 map[user.k:v]", "h/f=2"},
		},
		{"opaque and then deleted", [][]member{t, {opq, file(".wh.t", "")}}, nil},
		{"opaque above what is implied", [][]member{t, {file("t/s/new", "22"), opq}}, []string{"t/", "t/s/", "t/s/new=2"}},
		{"opaque above what is named", [][]member{t, {oddDirectory("t/s"), opq}}, []string{"t/", "t/s/ 0700 1000:1000 map[user.k:v]"}},
		{"opaque again and again", [][]member{t, {opq, file("t/a", "22"), opq, file("t/b", "22"), opq}}, []string{"t/", "t/a=2", "t/b=2"}},
		{"opaque root", [][]member{t, {root, file("new", "22")}}, []string{"new=2"}},
		{"opaque root last", [][]member{t, {file("t/new", "22"), file("new", "22"), root}}, []string{"new=2", "t/", "t/new=2"}},
		{"opaque root and more", [][]member{t, {root, directory("t"), root, file("t/a", "22")}, {file("t/b", "333")}}, []string{"t/", "t/a=2", "t/b=3"}},
		{"opaque root above what is implied", [][]member{{oddDirectory("h"), directory("h/d")}, {directory("h/d"), root}}, []string{"h/", "h/d/"}},
		{"opaque root of two layers", [][]member{t, {file("f", "22"), file(".wh.t", ""), directory("g")}, {root, directory("t")}}, []string{"t/"}},
	}
}

// throughCases have symlinks in the layers below.
func throughCases() []markCase {
	usr := members(directory("usr"), oddDirectory("usr/lib"), file("usr/lib/old", "1"), sym("usr/lib", "lib"), sym("/lib", "chain"), sym("nowhere/deep", "dangling"))
	rest := []string{"chain->/lib", "dangling->nowhere/deep", "lib->usr/lib", "usr/", "usr/lib/ 0700 1000:1000 map[user.k:v]"}
	return []markCase{
		{"through a symlink", [][]member{usr, {file("lib/x", "22")}}, append([]string{"usr/lib/old=1", "usr/lib/x=2"}, rest...)},
		{"through two symlinks", [][]member{usr, {file("chain/d/x", "22")}}, append([]string{"usr/lib/old=1", "usr/lib/d/", "usr/lib/d/x=2"}, rest...)},
		{
			"through a symlink to nowhere",
			[][]member{usr, {file("dangling/x", "22")}},
			append([]string{"usr/lib/old=1", "nowhere/", "nowhere/deep/", "nowhere/deep/x=2"}, rest...),
		},
		{"deleted through a symlink", [][]member{usr, {file("chain/.wh.old", "")}}, rest},
		{
			"deleted and made through a symlink",
			[][]member{usr, {file("lib/old", "22"), file("lib/.wh.old", ""), file("usr/lib/more", "22")}},
			append([]string{"usr/lib/old=2", "usr/lib/more=2"}, rest...),
		},
		{"nothing behind a symlink", [][]member{usr, {file("dangling/.wh.x", ""), file("lib/n/.wh.x", "")}}, append([]string{"usr/lib/old=1"}, rest...)},
		{
			"a directory that is named, and gets more through a symlink",
			[][]member{usr, {directory("usr/lib/d"), file("lib/d/new", "22"), file("lib/d/.wh.old", "")}},
			append([]string{"usr/lib/d/", "usr/lib/d/new=2", "usr/lib/old=1"}, rest...),
		},
		{
			"what directories hold comes before them",
			[][]member{usr, {file("usr/lib/x", "22"), oddDirectory("usr/lib"), file("n/x", "22"), directory("n")}},
			append([]string{"usr/lib/old=1", "usr/lib/x=2", "n/", "n/x=2"}, rest...),
		},
		{
			"a directory in place of a symlink",
			[][]member{usr, {directory("lib"), file("lib/x", "22")}},
			[]string{"chain->/lib", "dangling->nowhere/deep", "lib/", "lib/x=2", "usr/", "usr/lib/ 0700 1000:1000 map[user.k:v]", "usr/lib/old=1"},
		},
	}
}

// lateLinkCases have hard links that come before their targets, and then something under their names: it finds what it would find
// if the link had been made at once, and what is put into a link replaces it.
func lateLinkCases() []markCase {
	below := members(directory("d"), directory("d/e"), file("d/e/old", "1"))
	l, x := link("x", "d"), file("x", "22")
	return []markCase{
		{"a late link, deleted within", [][]member{below, {l, file("d/.wh.q", ""), x}}, []string{"d=2", "x=2"}},
		{"a late link, deleted deep within", [][]member{below, {l, file("d/e/.wh.old", ""), x}}, []string{"d=2", "x=2"}},
		{"a late link, opaque within", [][]member{below, {l, file("d/.wh..wh..opq", ""), x}}, []string{"d=2", "x=2"}},
		{"a late link, deleted", [][]member{below, {l, file(".wh.d", ""), x}}, []string{"d=2", "x=2"}},
		{"a late link that something is put into", [][]member{below, {l, file("d/new", "333"), x}}, []string{"d/", "d/new=3", "x=2"}},
		{"a late link that something is put deep into", [][]member{below, {l, file("d/e/new", "333"), x}}, []string{"d/", "d/e/", "d/e/new=3", "x=2"}},
		{"a late link that a directory replaces", [][]member{below, {l, directory("d"), x}}, []string{"d/", "x=2"}},
		{"a late link that is removed with its directory", [][]member{below, {link("x", "n/l"), file("n/.wh.q", ""), file("n/f", "22"), sym("x", "n"), x}}, []string{"d/", "d/e/", "d/e/old=1", "n->x", "x=2"}},
		{"a late link to a late link", [][]member{below, {l, link("d", "a"), link("a", "b"), x}}, []string{"a=2", "b=2", "d=2", "x=2"}},
		{"a late link before a late link", [][]member{below, {link("m", "d"), link("x", "m"), x}}, []string{"d=2", "m=2", "x=2"}},
	}
}

// refusedCases go through what turns out to be a symlink, and then take the directory that they went through for their own. Before
// it is known that it is one, nobody can say what comes of it.
func refusedCases() []markCase {
	usr := members(directory("usr"), oddDirectory("usr/lib"), file("usr/lib/old", "1"), sym("usr/lib", "lib"))
	x := file("lib/x", "22")
	with := func(more ...string) []string {
		return append(more, "usr/", "usr/lib/ 0700 1000:1000 map[user.k:v]", "usr/lib/old=1", "usr/lib/x=2")
	}
	return []markCase{
		{"through a symlink that comes again", [][]member{usr, {x, sym("usr/lib", "lib")}}, with("lib->usr/lib")},
		{"through a symlink that a file replaces", [][]member{usr, {x, file("lib", "333")}}, with("lib=3")},
		{"through a symlink that a directory replaces", [][]member{usr, {x, directory("lib")}}, with("lib/")},
		{"through a symlink that is deleted", [][]member{usr, {x, file(".wh.lib", "")}}, with()},
		{"through a symlink in a root that hides it", [][]member{usr, {x, file(".wh..wh..opq", "")}}, []string{"usr/", "usr/lib/", "usr/lib/x=2"}},
		{"through a symlink to a symlink of its own", [][]member{usr, {x, sym("old", "usr/lib")}}, []string{"lib->usr/lib", "usr/", "usr/lib->old"}},
		{
			"opaque behind a symlink, deleted behind it",
			[][]member{usr, {file("lib/.wh..wh..opq", ""), file("lib/.wh.old", "")}},
			[]string{"lib->usr/lib", "usr/", "usr/lib/ 0700 1000:1000 map[user.k:v]"},
		},
		{"opaque behind a symlink", [][]member{{directory("d"), file("d/f", "1"), sym("d", "l")}, {file("l/.wh..wh..opq", "")}}, []string{"d/", "d/f=1", "l->d"}},
	}
}

// marks unpacks the layers of each case in order, and in reverse order onto nothing, as containerd does when it unpacks in
// parallel.
func marks(r *rig) {
	known := markCases()
	for i, c := range slices.Concat(known, refusedCases()) {
		top := r.straight(fmt.Sprint("s", i), c.layers)
		slices.Sort(c.want)
		assert.DeepEqual(r.t, inShort(r.tree(top)), append([]string{}, c.want...))
		r.specified(c.layers, r.tree(top), c.name)
		r.agree(top)
		late, ok := r.late(fmt.Sprint("l", i), c.layers)
		if ok {
			assert.Equal(r.t, late == "", i >= len(known), c.name)
		}
		if late != "" {
			r.same(rootless(r.tree(top).WithoutClock()), rootless(r.tree(late).WithoutClock()), c.name+", unpacked before its parents are known")
			r.agree(late)
		}
	}
}

// specified compares a tree with what the specification says of the layers. It says nothing of hard links.
func (r *rig) specified(layers [][]member, got Tree, what string) {
	r.t.Helper()
	want := newStack()
	for _, l := range layers {
		var err error
		if slices.ContainsFunc(l, func(m member) bool { return m.Typeflag == tar.TypeLink }) {
			return
		}
		want, err = want.with(l)
		assert.NilError(r.t, err)
	}
	r.same(want.tree(), rootless(got.WithoutClock()), what)
}

// straight unpacks layers one on another, reads each, and returns the name of the last.
func (r *rig) straight(prefix string, layers [][]member) (top string) {
	r.t.Helper()
	for i, l := range layers {
		name := fmt.Sprint(prefix, "-", i)
		r.fill(name, top, archive(l...))
		r.tree(name) // every name that a directory lists is there
		top = name
	}
	return top
}

// late unpacks layers, the last one first, before they are given their parents, if the backend can do so. A layer may be refused
// because it cannot be told what comes of it: then there is no top.
func (r *rig) late(prefix string, layers [][]member) (top string, ok bool) {
	r.t.Helper()
	for i := len(layers) - 1; i >= 0; i-- {
		name := fmt.Sprint(prefix, "-", i)
		assert.NilError(r.t, r.store.Create(r.ctx(), name, "", store.CreateOptions{Detached: true}))
		_, err := r.store.Unpack(r.ctx(), name, bytes.NewReader(archive(layers[i]...)))
		if refusedLate(err) {
			r.removeAll(prefix, i, len(layers))
			return "", true
		}
		assert.NilError(r.t, err, script(layers))
	}
	for i := range layers {
		name, as := fmt.Sprint(prefix, "-", i), fmt.Sprint(prefix, "+", i)
		err := r.store.Commit(r.ctx(), name, as, store.CommitOptions{Parent: top})
		if errdefs.IsNotImplemented(err) {
			return "", false
		}
		if refusedLate(err) {
			r.removeAll(prefix, i, len(layers))
			return "", true
		}
		assert.NilError(r.t, err, script(layers))
		r.tree(as)
		top = as
	}
	return top, true
}

// refusedLate tells that a layer cannot be unpacked before its parents are known, or that its paths lead nowhere without them.
func refusedLate(err error) bool {
	return errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP) ||
		errdefs.IsInvalidArgument(err) && strings.Contains(err.Error(), "unpack it after its parent")
}

func (r *rig) removeAll(prefix string, from, to int) {
	r.t.Helper()
	for i := from; i < to; i++ {
		r.remove(fmt.Sprint(prefix, "-", i))
	}
}

// agree holds that a layer's tree, its changes and its diff say the same.
func (r *rig) agree(name string) {
	r.t.Helper()
	parent := r.stat(name).Parent
	before, after := Tree{".": {}}, r.tree(name)
	if parent != "" {
		before = r.tree(parent)
	}
	want := Changes(before, after)
	r.sameChanges(want, withoutExtra(want, r.changes(name, parent)))
	r.fill("copy of "+name, parent, r.diff(name, parent))
	r.same(rootless(after.WithoutClock()), rootless(r.tree("copy of "+name).WithoutClock()), "copy of "+name)
}

// inShort describes a tree in short, sorted.
func inShort(t Tree) []string {
	list := make([]string, 0, len(t))
	for name, e := range rootless(t) {
		switch {
		case e.Mode.IsDir():
			name += "/"
			if e.Mode.Perm() != 0o755 || e.UID != 0 || e.GID != 0 || len(e.Xattrs) > 0 {
				name += fmt.Sprintf(" %#o %d:%d %v", e.Mode.Perm(), e.UID, e.GID, e.Xattrs)
			}
		case e.Mode.Type() == os.ModeSymlink:
			name += "->" + e.Target
		default:
			for _, n := range []string{"1", "22", "333"} {
				if e.Digest == digest([]byte(n)) {
					name += "=" + n[:1]
				}
			}
		}
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}

// impliedParents: a directory that a tar implies looks as it does in the layers below.
func impliedParents(r *rig) {
	tmp, top := directory("tmp"), oddDirectory("h")
	tmp.Mode = 0o1777
	second := oddDirectory("h/d/e")
	second.Uid = 7
	second.PAXRecords["SCHILY.xattr.system.posix_acl_default"] = aclUser1
	layers := [][]member{{tmp, top, oddDirectory("h/d")}, {second, file("h/one", "22")}, {file("tmp/f", "333"), file("h/f", "333"), file("h/d/e/f/g", "333")}}
	names := map[string]string{"straight": r.straight("s", layers)}
	if late, ok := r.late("l", layers); ok {
		assert.Assert(r.t, late != "", "refused")
		names["late"] = late
	}
	for how, name := range maps.All(names) {
		before, after := r.tree(r.stat(name).Parent), r.tree(name)
		for _, dir := range []string{"tmp", "h", "h/d", "h/d/e"} {
			assert.DeepEqual(r.t, before[dir], after[dir])
		}
		assert.Equal(r.t, after["tmp"].Mode, os.ModeDir|os.ModeSticky|0o777, how)
		assert.Equal(r.t, after["h/d/e/f"].Mode, os.ModeDir|0o755, how)
		assert.Equal(r.t, len(after["h/d/e/f"].Xattrs), 0, "%s: nothing is inherited", how)
		r.agree(name)
	}
}

// impliedMapped: what is implied belongs to whom it seems to belong.
func impliedMapped(r *rig) {
	r.fill("base", "", archive(oddDirectory("h"), oddDirectory("h/d"), file("h/d/f", "1")))
	want := up(rootless(r.tree("base")), 200000)
	assert.NilError(r.t, r.createWith("mapped", "base", store.CreateOptions{IDMap: shifted(200000)}))
	r.apply("mapped", archive(file("h/d/new", "22"), file("h/d/.wh.f", "")))
	got := r.tree("mapped")
	for _, dir := range []string{"h", "h/d"} {
		assert.DeepEqual(r.t, want[dir], got[dir])
	}
	assert.Equal(r.t, got["h/d/new"].UID, uint32(200000))
	assert.Equal(r.t, len(rootless(got)), 3)
	assert.NilError(r.t, r.createWith("child", "mapped", store.CreateOptions{IDMap: shifted(200000)}))
	r.apply("child", archive(file("h/d/n/more", "333")))
	assert.DeepEqual(r.t, want["h/d"], r.tree("child")["h/d"])
	assert.Equal(r.t, r.tree("child")["h/d/n"].UID, uint32(200000))
}

// refusedForBelow: a path that leads nowhere is an error, whenever that is known.
func refusedForBelow(r *rig) {
	below := members(sym("b", "a"), sym("a", "b"), file("f", "1"), sym("f", "l"))
	r.fill("base", "", archive(below...))
	for i, m := range []member{file("a/x", "22"), file("f/x", "22"), file("l/x", "22")} {
		name := fmt.Sprint("refused", i)
		r.create(name, "base")
		_, err := r.store.Apply(r.ctx(), name, bytes.NewReader(archive(m)))
		assert.ErrorContains(r.t, err, m.Name)
		late := fmt.Sprint("late", i)
		assert.NilError(r.t, r.store.Create(r.ctx(), late, "", store.CreateOptions{Detached: true}))
		_, err = r.store.Unpack(r.ctx(), late, bytes.NewReader(archive(m)))
		assert.NilError(r.t, err)
		assert.Assert(r.t, r.store.Commit(r.ctx(), late, late+" done", store.CommitOptions{Parent: "base"}) != nil, m.Name)
		r.remove(late)
		r.remove(name)
	}
}

// randomLayers: layers that nobody would make show what the specification says.
func randomLayers(r *rig) {
	rounds := 40
	if r.f.Slow {
		rounds = 6
	}
	for i := range rounds {
		rnd := newRand(uint64(4000 + i))
		prefix, links := fmt.Sprintf("r%d", i), i%2 == 0
		want := []*stack{newStack()}
		var layers [][]member
		for len(layers) < 4 {
			layer := randomLayer(rnd, links)
			if next, err := want[len(want)-1].with(layer); err == nil {
				layers, want = append(layers, layer), append(want, next)
			}
		}
		r.straight(prefix, layers)
		for n := range layers {
			name := fmt.Sprint(prefix, "-", n)
			r.same(want[n+1].tree(), rootless(r.tree(name).WithoutClock()), fmt.Sprintf("%s: %s", name, script(layers[:n+1])))
			if n > 0 {
				r.agree(name)
			}
		}
		late, ok := r.late(prefix+"late", layers)
		assert.Assert(r.t, !ok || late != "" || links || goThroughFiles(want, layers), "refused: %s", script(layers))
		if late != "" {
			r.same(want[len(layers)].tree(), rootless(r.tree(late).WithoutClock()), fmt.Sprintf("late %s: %s", late, script(layers)))
		}
	}
}

// goThroughFiles tells that a layer has names in what is no directory in the layers below it.
func goThroughFiles(below []*stack, layers [][]member) bool {
	for i, l := range layers {
		tree := below[i].tree()
		for _, m := range l {
			for dir := path.Dir(m.Name); dir != "."; dir = path.Dir(dir) {
				if e, ok := tree[dir]; ok && !e.Mode.IsDir() {
					return true
				}
			}
		}
	}
	return false
}

// script describes layers for a failure's message.
func script(layers [][]member) string {
	text := ""
	for i, l := range layers {
		text += fmt.Sprintf("\n  layer %d:", i)
		for _, m := range l {
			text += fmt.Sprintf(" %s", m.Name)
			if m.Linkname != "" {
				text += "->" + m.Linkname
			}
		}
	}
	return text + "\n"
}
