package layertar

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/pkg/archive"
	"gotest.tools/v3/assert"
	"pgregory.net/rapid"

	"strata/backend"
)

// drawTar makes a tar of a few entries whose names often meet. With marks, it has whiteouts.
func drawTar(t *rapid.T, label string, marks bool) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	name := rapid.Custom(func(t *rapid.T) string {
		parts := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "dd"}), 1, 3).Draw(t, "parts")
		return strings.Join(parts, "/")
	})
	for i := range rapid.IntRange(1, 12).Draw(t, label+" entries") {
		// Docker's opaque mark also deletes what the same tar put into directories it does not name, so
		// it comes first.
		h, body := drawEntry(t, name, marks, marks && i == 0)
		// One time for all: Docker sets a directory's times at the end even if a file has replaced it.
		h.ModTime = time.Unix(1000000, 123000)
		if err := w.WriteHeader(h); err != nil {
			t.Fatalf("write header: %v", err)
		}
		if _, err := w.Write(body); err != nil {
			t.Fatalf("write body: %v", err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatalf("close tar: %v", err)
	}
	if rapid.Bool().Draw(t, "garbage") {
		b.WriteString("after the end")
	}
	return b.Bytes()
}

func drawEntry(t *rapid.T, name *rapid.Generator[string], marks, opaque bool) (*tar.Header, []byte) {
	kinds := []string{"file", "file", "file", "dir", "dir", "symlink", "hard", "device"}
	if marks {
		kinds = append(kinds, "whiteout", "whiteout")
	}
	if opaque {
		kinds = append(kinds, "opaque", "opaque", "opaque")
	}
	h := &tar.Header{
		Format: tar.FormatPAX,
		Name:   name.Draw(t, "name"),
		Mode:   int64(rapid.SampledFrom([]int{0o644, 0o600, 0o4755, 0o2711, 0o777}).Draw(t, "mode")),
		Uid:    rapid.IntRange(0, 3).Draw(t, "uid"),
		Gid:    rapid.IntRange(0, 3).Draw(t, "gid"),
	}
	switch rapid.SampledFrom(kinds).Draw(t, "kind") {
	case "file":
		body := bytes.Repeat([]byte{byte('a' + h.Uid)}, rapid.SampledFrom([]int{0, 1, 600, 200000}).Draw(t, "size"))
		h.Typeflag, h.Size = tar.TypeReg, int64(len(body))
		if rapid.Bool().Draw(t, "xattr") {
			h.PAXRecords = map[string]string{"SCHILY.xattr.user.k": "v\x00w"}
		}
		return h, body
	case "dir":
		h.Typeflag = tar.TypeDir
		h.Name += "/"
		h.Mode &^= 0o2000 // directories that Docker makes in it without being told to would inherit it
	case "symlink":
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, rapid.SampledFrom([]string{"a", "b", "nowhere"}).Draw(t, "target"), 0o777
	case "hard":
		h.Typeflag, h.Linkname = tar.TypeLink, name.Draw(t, "target")
	case "device":
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, 1, 3
	case "whiteout":
		h.Typeflag = tar.TypeReg
		dir, base := splitName(h.Name)
		h.Name = joinName(dir, whiteoutPrefix+base)
	case "opaque":
		h.Typeflag = tar.TypeReg
		h.Name += "/" + opaqueMark
	}
	return h, nil
}

// TestLikeDocker unpacks random tars, one on top of another, with Docker's code and ours, and
// compares the trees. What Docker refuses is not compared.
func TestLikeDocker(t *testing.T) {
	needRoot(t)
	umask(t, 0) // Docker's code needs it in the whole process
	work := t.TempDir()
	t.Chdir(work) // back again in the end
	n, compared := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		ours, theirs := filepath.Join(work, fmt.Sprint(n, "o")), filepath.Join(work, fmt.Sprint(n, "t"))
		for _, dir := range []string{ours, theirs} {
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			defer remove(t, dir)
		}
		for _, marks := range []bool{false, true} {
			data := drawTar(t, "tar", marks)
			//nolint:usetesting // a draw has no Chdir, and the test's own would pile up until its end
			if err := os.Chdir(theirs); err != nil { // Docker is chrooted there
				t.Fatal(err)
			}
			size, err := archive.UnpackLayer(theirs, bytes.NewReader(data), nil)
			if err != nil {
				return
			}
			r, err := Apply(context.Background(), ours, bytes.NewReader(data), Options{Whiteouts: backend.WhiteoutsNone})
			if err != nil {
				t.Fatalf("Docker accepts it, we do not: %v", err)
			}
			if r.Size != size {
				t.Fatalf("size %d, Docker's %d", r.Size, size)
			}
			compareTrees(t, ours, theirs)
			compared++
		}
	})
	assert.Assert(t, compared > n/4, "only %d of %d tars were fit for comparison", compared, n)
}

// remove deletes what a draw unpacked.
func remove(t *rapid.T, dir string) {
	if err := os.RemoveAll(dir); err != nil {
		t.Errorf("%v", err)
	}
}

func compareTrees(t *rapid.T, ours, theirs string) {
	a, err := snapshot(ours)
	if err != nil {
		t.Fatal(err)
	}
	b, err := snapshot(theirs)
	if err != nil {
		t.Fatal(err)
	}
	for path, line := range a {
		if b[path] != line {
			t.Fatalf("%q:\n  ours   %s\n  docker %s", path, line, b[path])
		}
	}
	for path, line := range b {
		if _, ok := a[path]; !ok {
			t.Fatalf("%q: only Docker has it: %s", path, line)
		}
	}
}

// TestReplayRandom holds that a log gives every tar that Apply accepts back, byte for byte.
func TestReplayRandom(t *testing.T) {
	needRoot(t)
	umask(t, 0o077) // must not matter
	work := t.TempDir()
	n, exact := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		dir := filepath.Join(work, fmt.Sprint(n))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		defer remove(t, dir)
		dialect := rapid.SampledFrom([]backend.Whiteouts{
			backend.WhiteoutsNone, backend.WhiteoutsOverlay, backend.WhiteoutsOverlayUser, backend.WhiteoutsAUFS,
		}).Draw(t, "dialect")
		data := drawTar(t, "tar", true)
		l, err := CreateLog(dir + ".log")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Apply(context.Background(), dir, bytes.NewReader(data), Options{Whiteouts: dialect, Log: l}); err != nil {
			if err := l.Abort(); err != nil {
				t.Fatal(err)
			}
			return
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := replayFile(dir+".log", dir, &out); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(out.Bytes(), data) {
			t.Fatalf("%d bytes, want %d", out.Len(), len(data))
		}
		exact++
	})
	assert.Assert(t, exact > n/4, "only %d of %d tars were accepted", exact, n)
}

func replayFile(path, dir string, out *bytes.Buffer) error {
	log, err := OpenLog(path)
	if err != nil {
		return err
	}
	defer log.Close()
	return log.Replay(context.Background(), out, dir)
}
