package layertar

import (
	"archive/tar"
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend"
)

// layout shows a tree in short: directories end in a slash, files show their content, whiteouts are
// "gone", opaque directories are marked.
func layout(t *testing.T, dir string) map[string]string {
	t.Helper()
	all, err := snapshot(dir)
	assert.NilError(t, err)
	out := map[string]string{}
	for path, line := range all {
		var st unix.Stat_t
		full := filepath.Join(dir, path)
		assert.NilError(t, unix.Lstat(full, &st))
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			out[path] = "dir"
			if strings.Contains(line, `overlay.opaque="y"`) {
				out[path] = "opaque"
			}
		case unix.S_IFCHR:
			assert.Equal(t, st.Rdev, uint64(0))
			out[path] = "gone"
		default:
			data, err := os.ReadFile(full)
			assert.NilError(t, err)
			out[path] = string(data)
		}
	}
	delete(out, ".")
	delete(out, contestedFile) // until Settle
	return out
}

// whiteoutTest is a tar and what it makes of the parent's tree, for each dialect; the dialects with
// whiteouts start from an empty directory.
type whiteoutTest struct {
	name    string
	members []member
	want    map[backend.Whiteouts]map[string]string
}

const (
	none    = backend.WhiteoutsNone
	overlay = backend.WhiteoutsOverlay
	user    = backend.WhiteoutsOverlayUser
	aufs    = backend.WhiteoutsAUFS
)

func whiteoutParent() []member {
	return []member{
		dirEntry("d"), fileEntry("d/old", "old"), dirEntry("d/sub"), fileEntry("d/sub/x", "x"),
		fileEntry("f", "f"), dirEntry("k"), fileEntry("k/deep", "deep"),
	}
}

// with is the parent's tree with changes and without some paths.
func with(change map[string]string, without ...string) map[string]string {
	m := map[string]string{"d": "dir", "d/old": "old", "d/sub": "dir", "d/sub/x": "x", "f": "f", "k": "dir", "k/deep": "deep"}
	maps.Copy(m, change)
	for _, k := range without {
		delete(m, k)
	}
	return m
}

func plainWhiteouts() []whiteoutTest {
	return []whiteoutTest{
		{"file", []member{fileEntry(".wh.f", "")}, map[backend.Whiteouts]map[string]string{
			none: with(nil, "f"), overlay: {"f": "gone"}, user: {"f": "gone"}, aufs: {".wh.f": ""},
		}},
		{"tree", []member{fileEntry(".wh.d", "")}, map[backend.Whiteouts]map[string]string{
			none: with(nil, "d", "d/old", "d/sub", "d/sub/x"), overlay: {"d": "gone"}, user: {"d": "gone"}, aufs: {".wh.d": ""},
		}},
		{"of nothing", []member{fileEntry("n/.wh.m", "")}, map[backend.Whiteouts]map[string]string{
			none: with(nil), overlay: {"n": "dir", "n/m": "gone"}, aufs: {"n": "dir", "n/.wh.m": ""},
		}},
		{"opaque", []member{dirEntry("d"), fileEntry("d/new", "new"), fileEntry("d/.wh..wh..opq", "")}, map[backend.Whiteouts]map[string]string{
			none:    with(map[string]string{"d/new": "new"}, "d/old", "d/sub", "d/sub/x"),
			overlay: {"d": "opaque", "d/new": "new"}, user: {"d": "opaque", "d/new": "new"}, aufs: {"d": "dir", "d/new": "new", "d/.wh..wh..opq": ""},
		}},
		{"opaque keeps what is new below", []member{fileEntry("d/sub/new", "new"), fileEntry("d/.wh..wh..opq", "")}, map[backend.Whiteouts]map[string]string{
			none:    with(map[string]string{"d/sub/new": "new"}, "d/old", "d/sub/x"),
			overlay: {"d": "opaque", "d/sub": "dir", "d/sub/new": "new"},
		}},
		{"opaque keeps a named directory", []member{dirEntry("d"), dirEntry("d/sub"), fileEntry("d/.wh..wh..opq", "")}, map[backend.Whiteouts]map[string]string{
			none:    with(nil, "d/old", "d/sub/x"),
			overlay: {"d": "opaque", "d/sub": "dir"},
		}},
		{"then a file", []member{fileEntry(".wh.d", ""), fileEntry("d", "now")}, map[backend.Whiteouts]map[string]string{
			none: with(map[string]string{"d": "now"}, "d/old", "d/sub", "d/sub/x"), overlay: {"d": "now"}, user: {"d": "now"},
		}},
	}
}

func mixedWhiteouts() []whiteoutTest {
	return []whiteoutTest{
		{"then a directory", []member{fileEntry(".wh.d", ""), dirEntry("d"), fileEntry("d/new", "new")}, map[backend.Whiteouts]map[string]string{
			none: with(map[string]string{"d/new": "new"}, "d/old", "d/sub", "d/sub/x"), overlay: {"d": "opaque", "d/new": "new"}, user: {"d": "opaque", "d/new": "new"},
		}},
		{"then an implied directory", []member{fileEntry(".wh.d", ""), fileEntry("d/new", "new")}, map[backend.Whiteouts]map[string]string{
			none: with(map[string]string{"d/new": "new"}, "d/old", "d/sub", "d/sub/x"), overlay: {"d": "opaque", "d/new": "new"},
		}},
		{"file then directory", []member{fileEntry("d", "now"), dirEntry("d")}, map[backend.Whiteouts]map[string]string{
			none: with(nil, "d/old", "d/sub", "d/sub/x"), overlay: {"d": "opaque"},
		}},
		{"of what the tar made", []member{dirEntry("d"), fileEntry("d/new", "new"), fileEntry(".wh.d", "")}, map[backend.Whiteouts]map[string]string{
			none: with(map[string]string{"d/new": "new"}, "d/old", "d/sub", "d/sub/x"), overlay: {"d": "opaque", "d/new": "new"},
		}},
		{"of a link that is still to come", []member{linkEntry("l", "late"), fileEntry(".wh.l", ""), fileEntry("late", "x")}, map[backend.Whiteouts]map[string]string{
			none: with(map[string]string{"late": "x", "l": "x"}), overlay: {"l": "x", "late": "x"},
		}},
		{"AUFS links", []member{
			dirEntry(".wh..wh.plnk"), fileEntry(".wh..wh.plnk/1.2", "linked"), linkEntry("a", ".wh..wh.plnk/1.2"), linkEntry("b", "/.wh..wh.plnk/1.2"),
		}, map[backend.Whiteouts]map[string]string{
			none: with(map[string]string{"a": "linked", "b": "linked"}), overlay: {"a": "linked", "b": "linked"},
			aufs: {".wh..wh.plnk": "dir", ".wh..wh.plnk/1.2": "linked", "a": "linked", "b": "linked"},
		}},
	}
}

// TestWhiteouts holds what the marks do in each dialect.
func TestWhiteouts(t *testing.T) {
	needRoot(t)
	for _, test := range append(plainWhiteouts(), mixedWhiteouts()...) {
		for dialect, want := range test.want {
			t.Run(fmt.Sprint(test.name, "/", dialect), func(t *testing.T) {
				dir := t.TempDir()
				if dialect == none {
					_, err := Apply(t.Context(), dir, bytes.NewReader(makeTar(t, whiteoutParent()...)), Options{})
					assert.NilError(t, err)
				}
				data := makeTar(t, test.members...)
				_, err := Apply(t.Context(), dir, bytes.NewReader(data), Options{Whiteouts: dialect})
				assert.NilError(t, err)
				got := layout(t, dir)
				assert.Equal(t, cmp.Diff(want, got), "")
				assert.Assert(t, bytes.Equal(roundTrip(t, data, dialect), data))
			})
		}
	}
}

// TestThroughParentSymlink unpacks where the parent has a symlink, as usr-merged images have.
func TestThroughParentSymlink(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	for _, members := range [][]member{
		{dirEntry("usr"), dirEntry("usr/lib"), fileEntry("usr/lib/old", ""), symlinkEntry("lib", "/usr/lib")},
		{fileEntry("lib/new", ""), fileEntry("lib/.wh.old", "")},
	} {
		data := makeTar(t, members...)
		_, err := Apply(t.Context(), dir, bytes.NewReader(data), Options{Whiteouts: backend.WhiteoutsNone})
		assert.NilError(t, err)
	}
	list, err := os.ReadDir(filepath.Join(dir, "usr/lib"))
	assert.NilError(t, err)
	assert.Equal(t, len(list), 1)
	assert.Equal(t, list[0].Name(), "new")
}

// TestMarksBehindSymlinks holds that marks in a directory which is a symlink to nowhere do not make it,
// and that an opaque mark behind a symlink deletes nothing.
func TestMarksBehindSymlinks(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	for _, members := range [][]member{
		{symlinkEntry("l", "nowhere"), symlinkEntry("chain", "l"), fileEntry("f", ""), fileEntry("d/kept", ""), symlinkEntry("to-d", "d")},
		{fileEntry("l/.wh.x", ""), fileEntry("chain/.wh..wh..opq", ""), fileEntry("f/.wh.x", ""), fileEntry("to-d/.wh..wh..opq", "")},
	} {
		data := makeTar(t, members...)
		_, err := Apply(t.Context(), dir, bytes.NewReader(data), Options{Whiteouts: backend.WhiteoutsNone})
		assert.NilError(t, err)
	}
	list, err := os.ReadDir(dir)
	assert.NilError(t, err)
	assert.Equal(t, len(list), 5, "%v", list)
	_, err = os.Stat(filepath.Join(dir, "d/kept"))
	assert.NilError(t, err)
}

// TestDefaultACL holds that a default ACL in the tar does not leak into other entries.
func TestDefaultACL(t *testing.T) {
	needRoot(t)
	// Version 2; user::rwx, user:1000:rwx, group::r-x, mask::rwx, other::r-x (linux/posix_acl_xattr.h).
	acl := "\x02\x00\x00\x00" + "\x01\x00\x07\x00\xff\xff\xff\xff" + "\x02\x00\x07\x00\xe8\x03\x00\x00" +
		"\x04\x00\x05\x00\xff\xff\xff\xff" + "\x10\x00\x07\x00\xff\xff\xff\xff" + "\x20\x00\x05\x00\xff\xff\xff\xff"
	dir := t.TempDir()
	data := makeTar(t, xattrEntry(dirEntry("d"), aclDefault, acl), fileEntry("d/f", "x"), dirEntry("d/e"), fileEntry("d/e/g", "x"),
		member{Header: tar.Header{Name: "d/p", Typeflag: tar.TypeFifo, Mode: 0o640}})
	_, err := Apply(t.Context(), dir, bytes.NewReader(data), Options{})
	assert.NilError(t, err)
	got, err := snapshot(dir)
	assert.NilError(t, err)
	assert.Assert(t, strings.Contains(got["d"], aclDefault))
	for path, mode := range map[string]string{"d/f": "100644 ", "d/e": "40755 ", "d/e/g": "100644 ", "d/p": "10640 "} {
		assert.Assert(t, strings.HasPrefix(got[path], mode), "%s: %s", path, got[path])
		assert.Assert(t, !strings.Contains(got[path], "acl"), "%s: %s", path, got[path])
	}
}
