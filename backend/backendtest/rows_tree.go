package backendtest

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"gotest.tools/v3/assert"
)

// treeCase is a chain of layers, each written as a step on top of the one before.
type treeCase struct {
	name   string
	layers []Step
}

// old is a time that every file system and every tar format can hold to the nanosecond.
var old = time.Date(2011, 5, 6, 7, 8, 9, 123456789, time.UTC)

// capNetRaw is security.capability, revision 2, cap_net_raw+ep (include/uapi/linux/capability.h).
const capNetRaw = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// aSmallTree is what many of the chains begin with.
func aSmallTree() Step {
	return Steps(
		MkdirAll("etc/conf.d"), MkdirAll("usr/share/doc/pkg"), MkdirAll("var/empty"),
		CreateFile("etc/passwd", []byte("root:x:0:0\n"), 0o644), SetTime("etc/passwd", old),
		CreateFile("etc/shadow", []byte("root:*:\n"), 0o640), Chown("etc/shadow", 0, 42),
		CreateFile("etc/conf.d/a", []byte("a"), 0o600), CreateFile("etc/conf.d/b", []byte("b"), 0o600),
		CreateFile("usr/share/doc/pkg/copyright", bytes.Repeat([]byte("free "), 3000), 0o444),
		Symlink("../usr", "etc/up"), Chown("usr/share", 7, 8), SetTime("usr/share", old),
	)
}

// treeRows are the shapes of trees: each chain is written through mounts, compared with a plain
// directory, and taken through Diff and Apply.
func treeRows() []row {
	var all []row
	for _, part := range [][]treeCase{plainTrees(), changedTrees(), oddTrees()} {
		for _, c := range part {
			all = append(all, row{name: "tree " + c.name, run: c.run})
		}
	}
	return append(all, row{name: "tree of 125 layers", run: deepChain})
}

// The largest device number and the longest link are those of xfs, which can hold least: minor
// numbers of 18 bits, links of 1023 bytes.
func plainTrees() []treeCase {
	return []treeCase{
		{name: "empty", layers: []Step{Steps()}},
		{name: "empty child", layers: []Step{aSmallTree(), Steps(), Steps()}},
		{name: "base", layers: []Step{aSmallTree()}},
		{name: "child", layers: []Step{aSmallTree(), Steps(
			CreateFile("etc/hostname", []byte("host\n"), 0o644), MkdirAll("opt/new/deep"),
			CreateFile("opt/new/deep/file", nil, 0o755))}},
		{name: "special files", layers: []Step{
			Steps(
				Mkdir("dev", 0o755), CharDevice("dev/null", 0o666, 1, 3), CharDevice("dev/tty", 0o620, 5, 0), Chown("dev/tty", 0, 5),
				BlockDevice("dev/loop9", 0o660, 7, 9), Fifo("dev/pipe", 0o600), SetTime("dev/pipe", old),
				CharDevice("dev/big", 0o600, 511, 262143), SetTime("dev/null", old)),
			Steps(Chmod("dev/null", 0o600), Remove("dev/pipe"), CharDevice("dev/zero", 0o666, 1, 5)),
		}},
		{name: "symbolic links", layers: []Step{
			Steps(
				Symlink("/absolute", "a"), Symlink("../../../out", "b"), Symlink("a", "c"), Symlink("self", "self"),
				Symlink(strings.Repeat("long/", 200), "long"), Symlink("sp ace\nnewline", "odd"),
				Chown("a", 12, 34), SetTime("b", old)),
			Steps(Remove("a"), Symlink("elsewhere", "a"), Chown("c", 1, 1), SetTime("self", old)),
		}},
		{name: "hard links", layers: []Step{
			Steps(
				CreateFile("one", []byte("shared"), 0o644), Link("one", "two"), Mkdir("d", 0o755), Link("one", "d/three"),
				CreateFile("z", []byte("later name first"), 0o600), Link("z", "a"), Symlink("x", "sym"), Link("sym", "d/sym"),
				Fifo("pipe", 0o600), Link("pipe", "d/pipe")),
			Steps(CreateFile("d/new", []byte("n"), 0o644), Link("d/new", "new2")),
		}},
		{name: "special modes", layers: []Step{
			Steps(
				CreateFile("su", []byte("x"), 0o755|modeSetuid), CreateFile("sg", []byte("x"), 0o711|modeSetgid),
				Mkdir("tmp", 0o777|modeSticky), Mkdir("shared", 0o770|modeSetgid), Chown("shared", 0, 50),
				CreateFile("none", nil, 0), CreateFile("owned", []byte("x"), 0o644), Chown("owned", 1000, 1001),
				Chmod("owned", 0o755|modeSetuid|modeSetgid), CreateFile("high", nil, 0o600), Chown("high", 3000000000, 4000000000)),
			Steps(Chmod("su", 0o700), Mkdir("tmp/x", 0o700), Chmod("tmp", 0o700|modeSticky)),
		}},
		{name: "extended attributes", layers: []Step{
			Steps(
				CreateFile("ping", []byte("elf"), 0o755), SetXattr("ping", "security.capability", capNetRaw),
				CreateFile("f", []byte("x"), 0o644), SetXattr("f", "user.text", "value"), SetXattr("f", "user.bin", "\x00\xff\n="),
				SetXattr("f", "user.empty", ""), Mkdir("d", 0o755), SetXattr("d", "user.dir", "yes"), SetXattr("d", "trusted.mine", "1"),
				SetXattr("f", "user.long", strings.Repeat("v", 900))),
			Steps(SetXattr("f", "user.text", "changed"), RemoveXattr("f", "user.bin"), SetXattr("d", "user.more", "2"),
				Append("ping", []byte("!")), SetXattr("ping", "security.capability", capNetRaw)),
		}},
	}
}

func changedTrees() []treeCase {
	return []treeCase{
		{name: "copy up", layers: []Step{
			aSmallTree(), Steps(
				Append("etc/passwd", []byte("user:x:1000:1000\n")), Chmod("usr/share/doc/pkg/copyright", 0o400)),
			Steps(Append("etc/passwd", []byte("more\n")), Chown("etc/shadow", 1, 1), SetTime("etc/conf.d/a", old)),
		}},
		{name: "deletions", layers: []Step{
			aSmallTree(),
			Steps(Remove("etc/passwd"), RemoveAll("usr/share"), Remove("etc/up"), Remove("var/empty")),
			Steps(CreateFile("etc/passwd", []byte("back"), 0o644), Remove("etc/conf.d/a")),
			RemoveAll("etc"),
		}},
		{name: "replaced directories", layers: []Step{
			aSmallTree(),
			Steps(Replace("etc", 0o700), CreateFile("etc/only", []byte("this"), 0o644)),
			Steps(Replace("usr/share", 0o755), MkdirAll("usr/share/doc"), CreateFile("usr/share/doc/new", nil, 0o644)),
			Steps(Replace("usr", 0o755), MkdirAll("usr/share/doc/pkg")),
		}},
		{name: "renames", layers: []Step{
			aSmallTree(),
			Steps(Rename("etc/passwd", "etc/passwd-"), Rename("etc/conf.d/a", "usr/a"), Rename("etc/conf.d/b", "etc/shadow")),
			Steps(Mkdir("fresh", 0o755), CreateFile("fresh/x", []byte("x"), 0o600), Rename("fresh", "var/moved"), Rename("etc/up", "up")),
		}},
		{name: "type changes", layers: []Step{
			aSmallTree(),
			Steps(Remove("etc/passwd"), Mkdir("etc/passwd", 0o755), CreateFile("etc/passwd/inside", []byte("i"), 0o600),
				RemoveAll("etc/conf.d"), CreateFile("etc/conf.d", []byte("now a file"), 0o644),
				Remove("etc/up"), Mkdir("etc/up", 0o700), RemoveAll("usr"), Symlink("etc", "usr")),
			Steps(RemoveAll("etc/passwd"), Symlink("shadow", "etc/passwd"), Remove("usr"), Fifo("usr", 0o600),
				Remove("etc/conf.d"), MkdirAll("etc/conf.d/sub")),
		}},
		{name: "links to files below", layers: []Step{
			aSmallTree(),
			Steps(Link("etc/passwd", "etc/passwd.lnk"), Link("usr/share/doc/pkg/copyright", "c")),
			Steps(Remove("c"), Link("etc/shadow", "s")),
		}},
		{name: "one of two links removed", layers: []Step{
			Steps(CreateFile("a", []byte("twice"), 0o644), Link("a", "b"), Mkdir("d", 0o755), Link("a", "d/c")),
			Remove("b"), Steps(RemoveAll("d")),
		}},
		{name: "root directory", layers: []Step{
			Steps(Chmod(".", 0o700), Chown(".", 3, 4), SetXattr(".", "user.root", "r")),
			CreateFile("f", nil, 0o644), Steps(Remove("f")),
		}},
	}
}

func oddTrees() []treeCase {
	long := strings.Repeat("n", 255)
	return []treeCase{
		{name: "odd names", layers: []Step{
			Steps(
				CreateFile("new\nline", []byte("1"), 0o644), CreateFile("-leading", []byte("2"), 0o644), CreateFile(" ", nil, 0o644),
				CreateFile(long, []byte("3"), 0o644), CreateFile("äöü-日本-𝄞", nil, 0o644), CreateFile("back\\slash", nil, 0o644),
				CreateFile("bad\xff\xfeutf8", nil, 0o644), CreateFile("a:b,c=d", nil, 0o644), CreateFile("...", nil, 0o644),
				CreateFile("tab\tand\x01control", nil, 0o644), Mkdir("trail ", 0o755), CreateFile("trail /x", nil, 0o644),
				CreateFile("100% $HOME `id` *?", nil, 0o644)),
			Steps(Remove("new\nline"), Append("-leading", []byte("!")), Remove(long), RemoveAll("trail "), Remove("bad\xff\xfeutf8")),
		}},
		{name: "names of order", layers: []Step{
			Steps(
				Mkdir("a", 0o755), CreateFile("a/z", nil, 0o644), CreateFile("a-b", nil, 0o644), CreateFile("a.b", nil, 0o644), CreateFile("a0", nil, 0o644)),
			Steps(Append("a/z", []byte("1")), Append("a-b", []byte("1")), Append("a.b", []byte("1")), Append("a0", []byte("1"))),
		}},
		{name: "deep paths", layers: []Step{
			Steps(MkdirAll(strings.Repeat("directory/", 90)), CreateFile(strings.Repeat("directory/", 90)+"f", []byte("deep"), 0o644)),
			Remove(strings.Repeat("directory/", 90) + "f"),
		}},
		{name: "times", layers: []Step{
			Steps(
				CreateFile("ns", nil, 0o644), SetTime("ns", time.Unix(1234567890, 1)), CreateFile("whole", nil, 0o644), SetTime("whole", time.Unix(1234567890, 0)),
				CreateFile("epoch", nil, 0o644), SetTime("epoch", time.Unix(0, 0)), CreateFile("late", nil, 0o644), SetTime("late", time.Unix(4000000000, 999999999)),
				Symlink("x", "sym"), SetTime("sym", old), Mkdir("d", 0o755), CreateFile("d/f", nil, 0o644), SetTime("d", old)),
			Steps(SetTime("ns", time.Unix(1234567890, 2)), SetTime("sym", old.Add(time.Hour))),
		}},
		{name: "times before 1970", layers: []Step{Steps(
			CreateFile("old", nil, 0o644), SetTime("old", time.Unix(-1000000000, 5000)))}},
		{name: "sparse and big files", layers: []Step{
			Steps(
				SparseFile("hole", 16<<20, 10<<20, []byte("data in the middle")), SparseFile("all", 4<<20, 0, nil),
				CreateFile("big", Noise(1, 5<<20+17), 0o644), CreateFile("block", Noise(2, 512), 0o644), CreateFile("block1", Noise(3, 513), 0o644)),
			Steps(Append("big", []byte("tail")), Append("hole", []byte("tail"))),
		}},
		{name: "many files", layers: []Step{Root(7, 900), Churn(8, 150, 900)}},
	}
}

// run writes the chain, compares each layer with a plain directory, and sends it through tars.
func (c treeCase) run(r *rig) {
	plain := r.newPlain()
	want := make([]Tree, 0, len(c.layers))
	for i, step := range c.layers {
		name, parent := chainName(i), chainParent(i)
		r.create(name, parent)
		r.write(name, step)
		assert.NilError(r.t, step(plain), "write to plain directory")
		want = append(want, r.readTree(plain).WithoutClock())
		r.same(want[i], r.tree(name).WithoutClock(), "layer "+name)
	}
	exact := make([]Tree, 0, len(c.layers))
	for i := range c.layers {
		exact = append(exact, r.tree(chainName(i)))
		r.same(want[i], exact[i].WithoutClock(), chainName(i)+" after its children were written")
		c.checkChanges(r, i, exact)
	}
	roundTrip(r, exact)
}

// checkChanges compares what the store says about layer i with the slow and obvious answer.
func (c treeCase) checkChanges(r *rig, i int, trees []Tree) {
	r.t.Helper()
	parent := Tree{".": trees[i]["."]}
	if i > 0 {
		parent = trees[i-1]
	}
	r.sameChanges(Changes(parent, trees[i]), r.changes(chainName(i), chainParent(i)))
}

// roundTrip applies the diff of each layer to a layer of a second chain, which must become the
// same as the first, groups of hard links included, and give back the bytes it was made from.
func roundTrip(r *rig, want []Tree) {
	r.t.Helper()
	for i := range want {
		name, parent := chainName(i), chainParent(i)
		archive := r.diff(name, parent)
		assert.Assert(r.t, string(archive) == string(r.diff(name, parent)), "two diffs of %s differ", name)
		copyParent := ""
		if parent != "" {
			copyParent = "copy-" + parent
		}
		r.fill("copy-"+name, copyParent, archive)
		r.same(rootless(want[i]), rootless(r.tree("copy-"+name)), "layer made from the diff of "+name)
		assert.Assert(r.t, string(archive) == string(r.diff("copy-"+name, copyParent)), "the diff of %s does not come back", name)
	}
}

// rootless leaves out the root directory, which no layer tar need carry.
func rootless(t Tree) Tree {
	out := Tree{}
	for n, e := range t {
		if n != "." {
			out[n] = e
		}
	}
	return out
}

func deepChain(r *rig) {
	const depth = 125 // the longest image Docker allows (layer/layer.go, maxLayerDepth)
	plain := r.newPlain()
	for i := range depth {
		step := Steps(
			CreateFile(fmt.Sprintf("file%03d", i), []byte(fmt.Sprint(i)), 0o644),
			CreateFile("same", []byte(fmt.Sprint("layer ", i)), 0o644))
		if i%5 == 4 {
			step = Steps(step, Remove(fmt.Sprintf("file%03d", i-2)))
		}
		r.create(chainName(i), chainParent(i))
		r.write(chainName(i), step)
		assert.NilError(r.t, step(plain))
	}
	// An init layer and a container's layer come on top of an image.
	r.create("top-init", chainName(depth-1))
	r.write("top-init", CreateFile(".dockerenv", nil, 0o755))
	r.create("top", "top-init")
	assert.NilError(r.t, CreateFile(".dockerenv", nil, 0o755)(plain))
	r.same(r.readTree(plain).WithoutClock(), r.tree("top").WithoutClock(), "top layer")
	assert.Equal(r.t, len(r.changes("top", "top-init")), 0)
	assert.Assert(r.t, len(r.diff("top-init", chainName(depth-1))) > 0)
}

func chainName(i int) string { return fmt.Sprintf("layer%03d", i) }

func chainParent(i int) string {
	if i == 0 {
		return ""
	}
	return chainName(i - 1)
}
