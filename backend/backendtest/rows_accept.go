package backendtest

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"strata/backend"
)

// acceptCase is a tar that Docker and containerd unpack although parts of it make no sense on Linux.
type acceptCase struct {
	name string
	base []byte // what the layer below holds, nil for a base layer
	text []byte
	// want is what the layer then shows, but for what base has and this does not name. It is written as brief does, with contents instead of digests, "" for nothing.
	want map[string]string
	// overlaid is what is different where overlayfs mounts the layer.
	overlaid map[string]string
	logs     []string // words of the lines in the log, one for each line
	// may are attributes that a Sinker's storage may keep, although no file of Linux has them. It then logs less.
	may []string
}

func acceptRows() []row {
	all := []row{
		{name: "accept a tar of no bytes", run: acceptNoBytes},
		{name: "accept owners of 32 bits", run: acceptOwnerLimits},
		{name: "refuse devices that a cut makes 0:0", run: refuseCutDevices},
		{name: "keep marks of a nested overlay", run: keepNestedMarks},
	}
	for _, part := range [][]acceptCase{acceptNames(), acceptRoots(), acceptDevices(), acceptOwners(), acceptAttributes()} {
		for _, c := range part {
			all = append(all, row{name: "accept " + c.name, run: c.run})
		}
	}
	return all
}

func acceptNames() []acceptCase {
	nameless := file("", "a file without a name")
	return []acceptCase{
		{
			name: "names that climb",
			text: archive(file("./../x/f.jar", "jar"), file("a/../../y", "y"), file("/../../z", "z"), directory("../d"), file("d/../../d/e", "e")),
			want: map[string]string{
				"x": "drwxr-xr-x 0:0", "x/f.jar": "-rw-r--r-- 0:0 jar", "y": "-rw-r--r-- 0:0 y", "z": "-rw-r--r-- 0:0 z",
				"d": "drwxr-xr-x 0:0", "d/e": "-rw-r--r-- 0:0 e",
			},
		},
		{
			name: "links that climb",
			base: archive(file("etc/x", "what is below")),
			text: archive(file("etc/y", "here"), link("../../etc/y", "usr/y"), sym("../../etc/x", "s"), file("etc/x", "again"), link("./../etc/x", "hard")),
			want: map[string]string{
				"usr": "drwxr-xr-x 0:0", "usr/y": "-rw-r--r-- 0:0 here", "s": "Lrwxrwxrwx 0:0 ../../etc/x", "hard": "-rw-r--r-- 0:0 again",
				"etc/x": "-rw-r--r-- 0:0 again", "etc/y": "-rw-r--r-- 0:0 here",
			},
		},
		{
			name: "marks that climb",
			base: archive(file("gone", "g"), file("etc/gone", "g")),
			text: archive(file("../.wh.gone", ""), file("etc/../../etc/.wh.gone", "")),
			want: map[string]string{"gone": "", "etc/gone": ""},
		},
		{
			name: "empty names",
			text: archive(file("a", "a"), nameless, file("b", "b")),
			want: map[string]string{"a": "-rw-r--r-- 0:0 a", "b": "-rw-r--r-- 0:0 b"},
		},
	}
}

// acceptRoots: an entry for "here" says nothing about the layer's root, one for "/" does.
func acceptRoots() []acceptCase {
	root := func(name string) member {
		m := directory(name)
		m.Mode, m.Uid, m.Gid = 0o700, 1000, 1001
		m.PAXRecords = map[string]string{"SCHILY.xattr.user.root": "r"}
		return m
	}
	base := archive(file("below", "b"))
	changed := map[string]string{".": "drwx------ 1000:1001 user.root=r", "f": "-rw-r--r-- 0:0 f"}
	return []acceptCase{
		{name: "a closed directory that was packed", text: archive(root("."), file("./f", "f")), want: map[string]string{"f": "-rw-r--r-- 0:0 f"}},
		{name: "the same above a layer", base: base, text: archive(root("."), file("./f", "f")), want: map[string]string{"f": "-rw-r--r-- 0:0 f"}},
		{name: "a file for a root", text: archive(file(".", "no file"), sym("x", "a/.."), file("f", "f")), want: map[string]string{"f": "-rw-r--r-- 0:0 f"}},
		{name: "a root by its name", base: base, text: archive(root(""), file("f", "f")), want: changed},
		{name: "a root from above", text: archive(root(".."), file("f", "f")), want: changed},
	}
}

func device(name string, kind byte, major, minor int64) member {
	return member{Header: tar.Header{
		Typeflag: kind, Name: name, Mode: 0o640, Devmajor: major, Devminor: minor, ModTime: old.Truncate(1e9), Format: tar.FormatGNU,
	}}
}

func acceptDevices() []acceptCase {
	base := archive(file("top", "t"), directory("dir"), file("dir/f", "f"))
	nodes := archive(device("top", tar.TypeChar, 0, 0), device("dir", tar.TypeChar, 0, 0), device("new", tar.TypeChar, 0, 0), file("kept", "k"),
		directory("fresh"), device("fresh/n", tar.TypeChar, 0, 0), file("twice", "first"), device("twice", tar.TypeChar, 0, 0))
	return []acceptCase{
		{
			name: "devices 0 0",
			base: base,
			text: nodes,
			want: map[string]string{
				"top": "Dcrw-r----- 0:0 0x0", "dir": "Dcrw-r----- 0:0 0x0", "dir/f": "", "new": "Dcrw-r----- 0:0 0x0", "kept": "-rw-r--r-- 0:0 k",
				"fresh": "drwxr-xr-x 0:0", "fresh/n": "Dcrw-r----- 0:0 0x0", "twice": "Dcrw-r----- 0:0 0x0",
			},
			overlaid: map[string]string{"top": "", "dir": "", "new": "", "fresh/n": "", "twice": ""},
			logs:     []string{`count=5 first="\"top\""`},
		},
		{
			name:     "devices 0 0 in a base layer",
			text:     nodes,
			want:     map[string]string{"top": "Dcrw-r----- 0:0 0x0", "dir": "Dcrw-r----- 0:0 0x0", "new": "Dcrw-r----- 0:0 0x0", "kept": "-rw-r--r-- 0:0 k", "fresh": "drwxr-xr-x 0:0", "fresh/n": "Dcrw-r----- 0:0 0x0", "twice": "Dcrw-r----- 0:0 0x0"},
			overlaid: map[string]string{"top": "", "dir": "", "new": "", "fresh/n": "", "twice": ""},
			logs:     []string{"count=5"},
		},
		{
			name: "device numbers that do not fit",
			text: archive(device("c", tar.TypeChar, 4096+1, 1<<20+3), device("b", tar.TypeBlock, 4096+7, 2), device("b0", tar.TypeBlock, 0, 0)),
			want: map[string]string{"c": "Dcrw-r----- 0:0 0x103", "b": "Drw-r----- 0:0 0x702", "b0": "Drw-r----- 0:0 0x0"},
		},
	}
}

func acceptOwners() []acceptCase {
	owned := func(m member, id int, format tar.Format) member {
		m.Uid, m.Gid, m.Format, m.ModTime = id, id, format, m.ModTime.Truncate(1e9)
		return m
	}
	return []acceptCase{{
		name: "owners below 0",
		base: archive(owned(directory("d"), 7, tar.FormatPAX)),
		text: archive(
			owned(file("keep", "k"), -1, tar.FormatGNU), owned(file("nobody", "n"), -2, tar.FormatGNU), owned(directory("d"), -1, tar.FormatGNU),
			owned(file("highest", "h"), 1<<32-1, tar.FormatPAX), owned(file("last", "l"), 1<<32-2, tar.FormatPAX)),
		want: map[string]string{
			"keep": "-rw-r--r-- 0:0 k", "nobody": "-rw-r--r-- 4294967294:4294967294 n", "d": "drwxr-xr-x 0:0",
			"highest": "-rw-r--r-- 0:0 h", "last": "-rw-r--r-- 4294967294:4294967294 l",
		},
	}}
}

// anACL is user::rw-, group::r--, other::r-- (include/uapi/linux/posix_acl_xattr.h).
const anACL = "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x04\x00\x04\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff"

func acceptAttributes() []acceptCase {
	with := func(m member, pairs ...string) member {
		m.PAXRecords = map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			m.PAXRecords["SCHILY.xattr."+pairs[i]] = pairs[i+1]
		}
		return m
	}
	fifo := member{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "pipe", Mode: 0o600, ModTime: old}}
	return []acceptCase{
		{
			name: "attributes that Linux does not have",
			text: archive(
				with(file("f", "f"), "com.apple.provenance", "\x01", "system.nfs4_acl", "acl", "lustre.lov", "x", "user.kept", "1", "trusted.kept", "2"),
				with(directory("d"), "com.apple.quarantine", "q", "user.kept", "1"),
				with(sym("f", "s"), "system.posix_acl_access", anACL, "user.none", "1", "trusted.kept", "2"),
				with(fifo, "user.none", "1")),
			want: map[string]string{
				"f": "-rw-r--r-- 0:0 trusted.kept=2 user.kept=1 f", "d": "drwxr-xr-x 0:0 user.kept=1",
				"s": "Lrwxrwxrwx 0:0 trusted.kept=2 f", "pipe": "prw------- 0:0",
			},
			logs: []string{"count=7"},
			may:  []string{"com.apple.provenance", "com.apple.quarantine", "system.nfs4_acl", "system.posix_acl_access", "lustre.lov", "user.none"},
		},
		{
			name: "attributes of a file system",
			text: archive(
				with(directory("d"), "btrfs.compression", "zlib"), file("d/f", "f"),
				with(file("g", "g"), "btrfs.compression", "zstd", "bcachefs.compression", "lz4", "user.kept", "1")),
			want: map[string]string{"d": "drwxr-xr-x 0:0", "d/f": "-rw-r--r-- 0:0 f", "g": "-rw-r--r-- 0:0 user.kept=1 g"},
			logs: []string{`count=3 first="btrfs.compression of \"d/\": is in no namespace of Linux's`},
		},
		{
			name: "marks of overlayfs",
			base: archive(directory("d"), file("d/below", "b"), directory("other"), file("other/secret", "s")),
			text: archive(
				with(directory("d"), "trusted.overlay.opaque", "y", "user.overlay.opaque", "y"),
				with(directory("e"), "trusted.overlay.redirect", "/other", "user.overlay.redirect", "/other"),
				with(file("f", ""), "trusted.overlay.metacopy", "", "user.overlay.metacopy", "x", "trusted.overlay.overlay.opaque", "y")),
			want: map[string]string{
				"d": "drwxr-xr-x 0:0 user.overlay.opaque=y", "d/below": "-rw-r--r-- 0:0 b", "e": "drwxr-xr-x 0:0 user.overlay.redirect=/other",
				"e/secret": "", "f": "-rw-r--r-- 0:0 user.overlay.metacopy=x",
			},
			logs: []string{"count=4"},
		},
	}
}

// run applies the tar in both ways, and looks at the layer, at one above it and at a copy that a diff of it makes.
func (c acceptCase) run(r *rig) {
	parent := ""
	if c.base != nil {
		parent = "base"
		r.fill(parent, "", c.base)
	}
	r.create("whole", parent)
	lines := r.logged(func(ctx context.Context) {
		_, err := r.store.Apply(ctx, "whole", bytes.NewReader(c.text))
		assert.NilError(r.t, err)
	})
	_, sinker := r.back.(backend.Sinker)
	if keeps := sinker && len(c.may) > 0; !keeps {
		assert.Equal(r.t, len(lines), len(c.logs), "%q", lines)
		for i, words := range c.logs {
			assert.Assert(r.t, is.Contains(lines[i], words))
		}
	}
	assert.Assert(r.t, bytes.Equal(r.diff("whole", parent), c.text), "the tar is not given back as it came")
	r.create("part", parent)
	_, err := r.store.Unpack(r.ctx(), "part", bytes.NewReader(c.text))
	assert.NilError(r.t, err)
	var copied bytes.Buffer
	assert.NilError(r.t, r.store.Diff(r.ctx(), "part", parent, &copied))
	r.fill("copy", parent, copied.Bytes())
	r.create("above", "whole")
	want := c.expected(r)
	for _, name := range []string{"whole", "part", "above", "copy"} {
		got := map[string]string{}
		for path, e := range r.tree(name) {
			maps.DeleteFunc(e.Xattrs, func(name, _ string) bool { return sinker && slices.Contains(c.may, name) })
			got[path] = brief(e)
		}
		if name == "copy" { // the root is in no diff
			got["."] = want["."]
		}
		assert.DeepEqual(r.t, got, want)
	}
}

// expected is what the layer should show.
func (c acceptCase) expected(r *rig) map[string]string {
	want := map[string]string{".": "drwxr-xr-x 0:0"}
	if c.base != nil {
		for path, e := range r.tree("base") {
			want[path] = brief(e)
		}
	}
	maps.Copy(want, digested(c.want))
	if overlaid(r, "whole") {
		maps.Copy(want, c.overlaid)
	}
	maps.DeleteFunc(want, func(_, v string) bool { return v == "" })
	return want
}

// digested replaces the content of regular files by what brief says of it.
func digested(want map[string]string) map[string]string {
	out := map[string]string{}
	for path, v := range want {
		if i := strings.LastIndexByte(v, ' '); strings.HasPrefix(v, "-") && !strings.ContainsAny(v[i:], ":=") {
			v = fmt.Sprintf("%s %.4x", v[:i], sha256.Sum256([]byte(v[i+1:])))
		}
		out[path] = v
	}
	return out
}

// overlaid tells whether marks of overlayfs act where the layer is mounted.
func overlaid(r *rig, name string) bool {
	placer, ok := r.back.(backend.Placer)
	if !ok {
		return false
	}
	place, err := placer.Place(r.ctx(), r.layer(name))
	assert.NilError(r.t, err)
	return place.Marks != backend.WhiteoutsNone
}

// brief describes a file in one line, a regular one's content by the beginning of its digest.
func brief(e Entry) string {
	words := []string{e.Mode.String(), fmt.Sprintf("%d:%d", e.UID, e.GID)}
	for _, name := range slices.Sorted(maps.Keys(e.Xattrs)) {
		words = append(words, name+"="+e.Xattrs[name])
	}
	switch {
	case e.Mode.IsRegular() && e.Size > 0:
		words = append(words, e.Digest[:8])
	case e.Target != "":
		words = append(words, e.Target)
	case e.Mode&fs.ModeDevice != 0:
		words = append(words, fmt.Sprintf("%#x", e.Device))
	}
	return strings.Join(words, " ")
}

// logged returns what do writes to the log, a line each.
func (r *rig) logged(do func(ctx context.Context)) []string {
	var b bytes.Buffer
	logger := logrus.New()
	logger.SetOutput(&b)
	logger.SetFormatter(&logrus.TextFormatter{DisableColors: true})
	do(log.WithLogger(r.ctx(), logrus.NewEntry(logger)))
	return slices.Collect(strings.Lines(b.String()))
}

// acceptNoBytes: a stream of no bytes is a layer.
func acceptNoBytes(r *rig) {
	r.fill("base", "", archive(file("f", "f")))
	r.create("part", "base")
	applied, err := r.store.Unpack(r.ctx(), "part", bytes.NewReader(nil))
	assert.NilError(r.t, err)
	assert.Equal(r.t, applied.Bytes, int64(0))
	assert.Equal(r.t, applied.Digest, "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
	r.same(r.tree("base"), r.tree("part"), "after a tar of no bytes")
	r.create("whole", "base")
	_, err = r.store.Apply(r.ctx(), "whole", bytes.NewReader(nil))
	assert.NilError(r.t, err)
	r.same(r.tree("base"), r.tree("whole"), "after a tar of no bytes")
}

// acceptOwnerLimits: what no chown(2) could mean is refused.
func acceptOwnerLimits(r *rig) {
	for i, id := range []int{1 << 32, -1<<31 - 1} {
		name := fmt.Sprint("l", i)
		r.create(name, "")
		m := file("f", "")
		m.Gid, m.Format, m.ModTime = id, tar.FormatGNU, m.ModTime.Truncate(1e9)
		_, err := r.store.Apply(r.ctx(), name, bytes.NewReader(archive(m)))
		assert.Assert(r.t, errdefs.IsInvalidArgument(err), "%d: %v", id, err)
		r.remove(name)
	}
}

// refuseCutDevices: a device that 0:0 is left of would delete what is below on overlay, and be another device elsewhere.
func refuseCutDevices(r *rig) {
	for i, kind := range []byte{tar.TypeChar, tar.TypeBlock} {
		for j, n := range [][2]int64{{1 << 12, 0}, {0, 1 << 20}, {1 << 12, 1 << 20}, {1 << 32, 0}, {0, 1 << 32}, {-1 << 12, 0}} {
			name := fmt.Sprint("l", i, j)
			r.fill("below"+name, "", archive(file("d", "kept")))
			r.create(name, "below"+name)
			_, err := r.store.Apply(r.ctx(), name, bytes.NewReader(archive(device("d", kind, n[0], n[1]))))
			assert.Assert(r.t, errdefs.IsInvalidArgument(err), "%v: %v", n, err)
			assert.Assert(r.t, is.ErrorContains(err, fmt.Sprintf("device number %d:%d does not fit", n[0], n[1])))
			r.remove(name)
			r.remove("below" + name)
		}
	}
	r.fill("fits", "", archive(device("c", tar.TypeChar, 511, 1<<18-1), device("b", tar.TypeBlock, 1<<9-1, 1<<18-1)))
	other := device("f", tar.TypeFifo, 1<<12, 1<<20) // has no device number, whatever its header holds
	r.fill("other", "", archive(other))
}

// keepNestedMarks: what an overlay inside a container writes goes into an image and comes back.
func keepNestedMarks(r *rig) {
	r.fill("base", "", archive(directory("d"), file("d/f", "f"), file("g", "g")))
	r.create("child", "base")
	r.write("child", SetXattr("d", "user.overlay.opaque", "y"), SetXattr("g", "user.overlay.origin", "o"), SetTime("g", old))
	r.sameChanges([]backend.Change{{Path: "/d", Kind: backend.Modified}, {Path: "/g", Kind: backend.Modified}}, r.changes("child", "base"))
	r.fill("copy", "base", r.diff("child", "base"))
	r.same(r.tree("child").WithoutClock(), r.tree("copy").WithoutClock(), "after a diff")
}
