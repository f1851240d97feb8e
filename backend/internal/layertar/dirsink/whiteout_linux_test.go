package dirsink

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
	"strata/backend/internal/layertar/tarcodec"
	"strata/backend/internal/layertar/tartest"
	"strata/backend/internal/layertar/unpack"
)

// layout shows a tree in short: directories end in a slash, files show their content, whiteouts are
// "gone", opaque directories are marked.
func layout(t *testing.T, dir string) map[string]string {
	t.Helper()
	all, err := tartest.Snapshot(dir)
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
	members []tartest.Member
	want    map[backend.Whiteouts]map[string]string
}

const (
	none    = backend.WhiteoutsNone
	overlay = backend.WhiteoutsOverlay
	user    = backend.WhiteoutsOverlayUser
	aufs    = backend.WhiteoutsAUFS
)

func whiteoutParent() []tartest.Member {
	return []tartest.Member{
		tartest.Dir("d"), tartest.File("d/old", "old"), tartest.Dir("d/sub"), tartest.File("d/sub/x", "x"),
		tartest.File("f", "f"), tartest.Dir("k"), tartest.File("k/deep", "deep"),
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
		{"file", []tartest.Member{tartest.File(".wh.f", "")}, map[backend.Whiteouts]map[string]string{
			none: with(nil, "f"), overlay: {"f": "gone"}, user: {"f": "gone"}, aufs: {".wh.f": ""},
		}},
		{"tree", []tartest.Member{tartest.File(".wh.d", "")}, map[backend.Whiteouts]map[string]string{
			none: with(nil, "d", "d/old", "d/sub", "d/sub/x"), overlay: {"d": "gone"}, user: {"d": "gone"}, aufs: {".wh.d": ""},
		}},
		{"of nothing", []tartest.Member{tartest.File("n/.wh.m", "")}, map[backend.Whiteouts]map[string]string{
			none: with(nil), overlay: {"n": "dir", "n/m": "gone"}, aufs: {"n": "dir", "n/.wh.m": ""},
		}},
		{"opaque", []tartest.Member{tartest.Dir("d"), tartest.File("d/new", "new"), tartest.File("d/.wh..wh..opq", "")}, map[backend.Whiteouts]map[string]string{
			none:    with(map[string]string{"d/new": "new"}, "d/old", "d/sub", "d/sub/x"),
			overlay: {"d": "opaque", "d/new": "new"}, user: {"d": "opaque", "d/new": "new"}, aufs: {"d": "dir", "d/new": "new", "d/.wh..wh..opq": ""},
		}},
		{"opaque keeps what is new below", []tartest.Member{tartest.File("d/sub/new", "new"), tartest.File("d/.wh..wh..opq", "")}, map[backend.Whiteouts]map[string]string{
			none:    with(map[string]string{"d/sub/new": "new"}, "d/old", "d/sub/x"),
			overlay: {"d": "opaque", "d/sub": "dir", "d/sub/new": "new"},
		}},
		{"opaque keeps a named directory", []tartest.Member{tartest.Dir("d"), tartest.Dir("d/sub"), tartest.File("d/.wh..wh..opq", "")}, map[backend.Whiteouts]map[string]string{
			none:    with(nil, "d/old", "d/sub/x"),
			overlay: {"d": "opaque", "d/sub": "dir"},
		}},
		{"then a file", []tartest.Member{tartest.File(".wh.d", ""), tartest.File("d", "now")}, map[backend.Whiteouts]map[string]string{
			none: with(map[string]string{"d": "now"}, "d/old", "d/sub", "d/sub/x"), overlay: {"d": "now"}, user: {"d": "now"},
		}},
	}
}

func mixedWhiteouts() []whiteoutTest {
	return []whiteoutTest{
		{"then a directory", []tartest.Member{tartest.File(".wh.d", ""), tartest.Dir("d"), tartest.File("d/new", "new")}, map[backend.Whiteouts]map[string]string{
			none: with(map[string]string{"d/new": "new"}, "d/old", "d/sub", "d/sub/x"), overlay: {"d": "opaque", "d/new": "new"}, user: {"d": "opaque", "d/new": "new"},
		}},
		{"then an implied directory", []tartest.Member{tartest.File(".wh.d", ""), tartest.File("d/new", "new")}, map[backend.Whiteouts]map[string]string{
			none: with(map[string]string{"d/new": "new"}, "d/old", "d/sub", "d/sub/x"), overlay: {"d": "opaque", "d/new": "new"},
		}},
		{"file then directory", []tartest.Member{tartest.File("d", "now"), tartest.Dir("d")}, map[backend.Whiteouts]map[string]string{
			none: with(nil, "d/old", "d/sub", "d/sub/x"), overlay: {"d": "opaque"},
		}},
		{"of what the tar made", []tartest.Member{tartest.Dir("d"), tartest.File("d/new", "new"), tartest.File(".wh.d", "")}, map[backend.Whiteouts]map[string]string{
			none: with(map[string]string{"d/new": "new"}, "d/old", "d/sub", "d/sub/x"), overlay: {"d": "opaque", "d/new": "new"},
		}},
		{"of a link that is still to come", []tartest.Member{tartest.Link("l", "late"), tartest.File(".wh.l", ""), tartest.File("late", "x")}, map[backend.Whiteouts]map[string]string{
			none: with(map[string]string{"late": "x", "l": "x"}), overlay: {"l": "x", "late": "x"},
		}},
		{"AUFS links", []tartest.Member{
			tartest.Dir(".wh..wh.plnk"), tartest.File(".wh..wh.plnk/1.2", "linked"), tartest.Link("a", ".wh..wh.plnk/1.2"), tartest.Link("b", "/.wh..wh.plnk/1.2"),
		}, map[backend.Whiteouts]map[string]string{
			none: with(map[string]string{"a": "linked", "b": "linked"}), overlay: {"a": "linked", "b": "linked"},
			aufs: {".wh..wh.plnk": "dir", ".wh..wh.plnk/1.2": "linked", "a": "linked", "b": "linked"},
		}},
	}
}

// TestWhiteouts holds what the marks do in each dialect.
func TestWhiteouts(t *testing.T) {
	tartest.NeedRoot(t)
	for _, test := range append(plainWhiteouts(), mixedWhiteouts()...) {
		for dialect, want := range test.want {
			t.Run(fmt.Sprint(test.name, "/", dialect), func(t *testing.T) {
				dir := t.TempDir()
				if dialect == none {
					_, err := Apply(t.Context(), dir, bytes.NewReader(tartest.Make(t, whiteoutParent()...)), Options{}, unpack.Options{})
					assert.NilError(t, err)
				}
				data := tartest.Make(t, test.members...)
				_, err := Apply(t.Context(), dir, bytes.NewReader(data), Options{Whiteouts: dialect}, unpack.Options{})
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
	tartest.NeedRoot(t)
	dir := t.TempDir()
	for _, members := range [][]tartest.Member{
		{tartest.Dir("usr"), tartest.Dir("usr/lib"), tartest.File("usr/lib/old", ""), tartest.Symlink("lib", "/usr/lib")},
		{tartest.File("lib/new", ""), tartest.File("lib/.wh.old", "")},
	} {
		data := tartest.Make(t, members...)
		_, err := Apply(t.Context(), dir, bytes.NewReader(data), Options{Whiteouts: backend.WhiteoutsNone}, unpack.Options{})
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
	tartest.NeedRoot(t)
	dir := t.TempDir()
	for _, members := range [][]tartest.Member{
		{tartest.Symlink("l", "nowhere"), tartest.Symlink("chain", "l"), tartest.File("f", ""), tartest.File("d/kept", ""), tartest.Symlink("to-d", "d")},
		{tartest.File("l/.wh.x", ""), tartest.File("chain/.wh..wh..opq", ""), tartest.File("f/.wh.x", ""), tartest.File("to-d/.wh..wh..opq", "")},
	} {
		data := tartest.Make(t, members...)
		_, err := Apply(t.Context(), dir, bytes.NewReader(data), Options{Whiteouts: backend.WhiteoutsNone}, unpack.Options{})
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
	tartest.NeedRoot(t)
	// Version 2; user::rwx, user:1000:rwx, group::r-x, mask::rwx, other::r-x (linux/posix_acl_xattr.h).
	acl := "\x02\x00\x00\x00" + "\x01\x00\x07\x00\xff\xff\xff\xff" + "\x02\x00\x07\x00\xe8\x03\x00\x00" +
		"\x04\x00\x05\x00\xff\xff\xff\xff" + "\x10\x00\x07\x00\xff\xff\xff\xff" + "\x20\x00\x05\x00\xff\xff\xff\xff"
	dir := t.TempDir()
	data := tartest.Make(t, tartest.Xattr(tartest.Dir("d"), tarcodec.ACLDefault, acl), tartest.File("d/f", "x"), tartest.Dir("d/e"), tartest.File("d/e/g", "x"),
		tartest.Member{Header: tar.Header{Name: "d/p", Typeflag: tar.TypeFifo, Mode: 0o640}})
	_, err := Apply(t.Context(), dir, bytes.NewReader(data), Options{}, unpack.Options{})
	assert.NilError(t, err)
	got, err := tartest.Snapshot(dir)
	assert.NilError(t, err)
	assert.Assert(t, strings.Contains(got["d"], tarcodec.ACLDefault))
	for path, mode := range map[string]string{"d/f": "100644 ", "d/e": "40755 ", "d/e/g": "100644 ", "d/p": "10640 "} {
		assert.Assert(t, strings.HasPrefix(got[path], mode), "%s: %s", path, got[path])
		assert.Assert(t, !strings.Contains(got[path], "acl"), "%s: %s", path, got[path])
	}
}
