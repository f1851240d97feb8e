package backendtest

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"gotest.tools/v3/assert"

	"strata/backend/store"
)

// archiveCase is a tar that a store with exact diffs has to give back byte for byte. base is what
// the layer below holds.
type archiveCase struct {
	name string
	base []byte
	text []byte
}

func archiveCases() []archiveCase {
	return append(append(formatCases(), contentCases()...), paddingCases()...)
}

func formatCases() []archiveCase {
	common := []member{
		directory("d"), file("d/f", "content"), file("empty", ""), link("d/f", "d/hard"), sym("f", "d/soft"),
		file("x", strings.Repeat("x", 513)), file("y", strings.Repeat("y", 1024)),
	}
	long := "d/" + strings.Repeat("long-component/", 14) + "end"
	withLong := append(append([]member{}, common...), file(long, "long"), sym(strings.Repeat("t", 300), "longlink"))
	pax := file("p", "pax")
	pax.PAXRecords = map[string]string{"STRATA.comment": "kept in the header only", "SCHILY.xattr.user.a": "1"}
	owned := file("owned", "o")
	owned.Uid, owned.Gid, owned.Uname, owned.Gname = 1234567, 7654321, "somebody", "sometwo"
	return []archiveCase{
		{name: "nothing", text: archive()},
		{name: "ustar", text: archive(format(tar.FormatUSTAR, common)...)},
		{name: "gnu", text: archive(format(tar.FormatGNU, withLong)...)},
		{name: "pax", text: archive(append(withLong, pax, owned)...)},
		{name: "gnu large ids", text: archive(format(tar.FormatGNU, []member{owned})...)},
		{name: "formats mixed", text: archive(append(format(tar.FormatGNU, withLong), pax)...)},
	}
}

func contentCases() []archiveCase {
	base := archive(directory("old"), file("old/one", "1"), file("old/two", "2"), directory("dir"), file("dir/f", "f"), file("top", "t"))
	opaque := []member{directory("old"), file("old/.wh..wh..opq", ""), file("old/new", "n")}
	device := member{Header: tar.Header{Typeflag: tar.TypeChar, Name: "null", Mode: 0o666, Devmajor: 1, Devminor: 3, ModTime: old}}
	fifo := member{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "pipe", Mode: 0o600, ModTime: old}}
	return []archiveCase{
		{name: "no directories", text: archive(file("a/b/c/d", "implied parents"), file("a/x", "x"))},
		{name: "names with dots", text: archive(directory("."), directory("./a"), file("./a/f", "f"), file("a/./g", "g"), file("/abs", "a"))},
		{name: "duplicate files", text: archive(file("f", "first"), file("g", "between"), file("f", "second, longer"), file("f", ""))},
		{name: "duplicate with links", text: archive(file("f", "first"), link("f", "l"), file("f", "second"), link("f", "m"))},
		{name: "duplicate types", text: archive(file("f", "a file"), directory("f"), file("f/in", "in"), sym("x", "g"), file("g", "file again"))},
		{name: "identical duplicates", text: archive(file("f", "same"), file("f", "same"), file("f", "same"))},
		{name: "special files", text: archive(device, fifo, sym("/abs/olute", "s"))},
		{name: "whiteouts", base: base, text: archive(file(".wh.top", ""), directory("dir"), file("dir/.wh.f", ""), file("new", "n"))},
		{name: "whiteout of nothing", base: base, text: archive(file(".wh.never-was", ""), file("top", "t2"))},
		{name: "opaque", base: base, text: archive(opaque...)},
		{name: "opaque last", base: base, text: archive(opaque[0], opaque[2], opaque[1])},
		{name: "replaced types", base: base, text: archive(file("dir", "now a file"), directory("top"), file("top/x", "x"))},
		{name: "unchanged files again", base: base, text: archive(directory("old"), file("old/one", "1"))},
		{name: "reverse order", text: archive(file("z", "z"), file("y/z", "yz"), directory("y"), file("a", "a"))},
		{name: "aufs metadata", text: archive(directory(".wh..wh.plnk"), file(".wh..wh.plnk/1.2", "linked"), link(".wh..wh.plnk/1.2", "l"), file(".wh..wh.aufs", ""))},
	}
}

func paddingCases() []archiveCase {
	plain := archive(file("f", "content"), file("g", strings.Repeat("g", 5000)))
	padded := append(bytes.Clone(plain), make([]byte, 10240-len(plain)%10240)...)
	dirty := bytes.Clone(plain) // the bytes after a file's end, up to the next block, mean nothing
	at := bytes.Index(dirty, []byte("content"))
	copy(dirty[at+100:], "not zero")
	return []archiveCase{
		{name: "record padding", text: padded},
		{name: "dirty padding", text: dirty},
		{name: "text after the end", text: append(bytes.Clone(plain), "trailing garbage that is not a block"...)},
		{name: "one big file", text: bigArchive("big", 5<<20+1)},
		{name: "many files", text: manyFiles(600)},
	}
}

func manyFiles(n int) []byte {
	members := make([]member, n)
	for i := range members {
		members[i] = file(fmt.Sprintf("d%02d/f%04d", i%37, i), string(Noise(uint64(i), i*7%4000)))
	}
	return archive(members...)
}

// archiveRows apply tars, and ask for them again in several ways.
func archiveRows() []row {
	return []row{
		{name: "exact diffs", run: exactDiffs},
		{name: "exact diffs off", config: func(c *store.Config) { c.ExactDiffs = false }, run: exactOff},
		{name: "unsafe archives", run: unsafeArchives},
	}
}

func exactDiffs(r *rig) {
	for _, c := range archiveCases() {
		c.fill(r)
		size := r.apply(c.name, c.text)
		assert.Equal(r.t, size, payload(c.text), "%s: size returned by Apply", c.name)
		c.check(r)
	}
	r.reopen()
	for _, c := range archiveCases() {
		c.check(r)
		// What the tar made is the same tree that a native diff of it makes.
		tree := rootless(r.tree(c.name).WithoutClock()) // directories that the tar only implies are new
		flat := "flat " + c.name
		r.fill(flat, "", r.diff(c.name, ""))
		r.same(tree, rootless(r.tree(flat).WithoutClock()), c.name+": tree made from a diff against nothing")
	}
}

// parent is the name of the layer below.
func (c archiveCase) parent() string {
	if c.base == nil {
		return ""
	}
	return "base of " + c.name
}

// fill makes the layer that the tar is for.
func (c archiveCase) fill(r *rig) {
	r.t.Helper()
	if c.base != nil {
		r.fill(c.parent(), "", c.base)
	}
	r.create(c.name, c.parent())
}

func (c archiveCase) check(r *rig) {
	r.t.Helper()
	got := r.diff(c.name, c.parent())
	assert.Assert(r.t, bytes.Equal(c.text, got), "%s: %d bytes went in, %d other bytes came out", c.name, len(c.text), len(got))
	applied := r.stat(c.name).Applied
	assert.Assert(r.t, applied != nil, c.name)
	assert.Equal(r.t, *applied, store.Applied{
		Size: payload(c.text), Bytes: int64(len(c.text)), Exact: true,
		Digest: fmt.Sprintf("sha256:%x", sha256.Sum256(c.text)),
	}, c.name)
}

// exactOff: without the promise a diff has the same effect, if not the same bytes.
func exactOff(r *rig) {
	for i, c := range archiveCases() {
		name, parent := fmt.Sprint("l", i), ""
		if c.base != nil {
			parent = "base-" + name
			r.fill(parent, "", c.base)
		}
		r.fill(name, parent, c.text)
		assert.Assert(r.t, !r.stat(name).Applied.Exact, c.name)
		tree := rootless(r.tree(name))
		r.fill("copy-"+name, parent, r.diff(name, parent))
		r.same(tree, rootless(r.tree("copy-"+name)), c.name)
	}
}

// unsafeArchives must not reach outside their layer, whether they are refused or tamed.
func unsafeArchives(r *rig) {
	cases := map[string][]byte{
		"dotdot":     archive(file("../escape", "x")),
		"deep":       archive(file("a/../../escape", "x")),
		"symlink":    archive(sym("../../../../../..", "up"), file("up"+r.dir+"/escape", "x")),
		"absolute":   archive(sym(r.dir, "abs"), file("abs/escape", "x")),
		"hard link":  archive(sym(r.dir, "abs"), link("abs/victim", "caught"), file("caught", "overwritten")),
		"whiteout":   archive(sym(r.dir, "abs"), file("abs/.wh.victim", "")),
		"wh dotdot":  archive(file("a/.wh...", ""), file(".wh...", "")),
		"opaque":     archive(sym(r.dir, "abs"), file("abs/.wh..wh..opq", "")),
		"mode of it": archive(sym(r.dir+"/victim", "v"), member{Header: tar.Header{Typeflag: tar.TypeReg, Name: "v", Mode: 0}}),
	}
	victim := CreateFile("victim", []byte("precious"), 0o600)
	assert.NilError(r.t, Steps(victim, SetTime("victim", old))(r.dir))
	before := siblings(r)
	for name, text := range cases {
		r.create(name, "")
		_, err := r.store.Apply(r.ctx(), name, bytes.NewReader(text))
		r.same(before, siblings(r), fmt.Sprintf("beside the store, after %s (%v)", name, err))
		r.remove(name)
	}
}

// siblings reads what lies beside the store.
func siblings(r *rig) Tree {
	r.t.Helper()
	entries, err := os.ReadDir(r.dir)
	assert.NilError(r.t, err)
	t := Tree{}
	for _, d := range entries {
		if d.Name() == filepath.Base(r.cfg.Root) {
			continue
		}
		for name, e := range r.readTree(filepath.Join(r.dir, d.Name())) {
			t[filepath.Join(d.Name(), name)] = e
		}
	}
	return t
}
