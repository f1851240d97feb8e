package e2e

import (
	"archive/tar"
	"errors"
	"maps"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gotest.tools/v3/assert"

	"strata/test/e2e/engine"
)

// marks loads an image with layers that delete what is below, which means the same in whatever order they are unpacked. containerd 2.4
// unpacks what it imports one by one, and what it pulls side by side.
func (h *containerdHost) marks(t *testing.T) {
	t.Helper()
	layers, want := markedLayers(t)
	if h.differ { // containerd's own has other answers
		layers, want = addBelow(t, layers, want)
	}
	archive, image := filepath.Join(t.TempDir(), "marks.tar"), dockerIO+"marks:latest"
	assert.NilError(t, engine.WriteImage(archive, "marks:latest", layers...))
	h.ctr(t, "images", "import", "--snapshotter", "strata", archive)
	got := h.tree(t, image)
	assert.Assert(t, cmp.Diff(want, got) == "", "%s", cmp.Diff(want, got))
	if !h.new || h.serial || h.backend != "overlay" {
		return
	}
	pulled := registry(t).Addr + "/marks:latest"
	h.ctr(t, "images", "tag", image, pulled)
	h.ctr(t, "images", "push", "--plain-http", pulled)
	h.ctr(t, "images", "rm", "--sync", image, pulled)
	h.ctr(t, "images", "pull", "--plain-http", "--snapshotter", "strata", pulled)
	assert.Assert(t, strings.Contains(h.containerd.Log(), "parallel=true"), "containerd did not unpack layers side by side")
	got = h.tree(t, pulled)
	assert.Assert(t, cmp.Diff(want, got) == "", "%s", cmp.Diff(want, got))
}

// markedLayers returns layers with whiteouts and opaque directories, and what they hold when stacked.
func markedLayers(t *testing.T) (layers []*engine.Layer, want engine.Manifest) {
	t.Helper()
	f, dir := fixtures(t), t.TempDir()
	layer := func(name string, fill func(*tar.Writer) error) *engine.Layer {
		l, err := engine.WriteLayer(filepath.Join(dir, name), fill)
		assert.NilError(t, err)
		return l
	}
	middle := layer("middle", func(tw *tar.Writer) error {
		return errors.Join(engine.AddFile(tw, "many/.wh.d001", 0o644, nil), engine.AddDir(tw, "many/d002"),
			engine.AddFile(tw, "many/d002/.wh..wh..opq", 0o644, nil), engine.AddFile(tw, "many/d002/new", 0o600, []byte("new")))
	})
	top := layer("top", func(tw *tar.Writer) error {
		return errors.Join(engine.AddDir(tw, "many/d001"), engine.AddFile(tw, "many/d001/again", 0o644, []byte("again")), engine.AddFile(tw, ".wh.home", 0o644, nil))
	})
	want = manifest(t, f.busybox, f.many)
	maps.DeleteFunc(want, func(path, _ string) bool {
		return path == "/home" || strings.HasPrefix(path, "/many/d001") || strings.HasPrefix(path, "/many/d002")
	})
	for path, line := range manifest(t, middle, top) {
		if !strings.Contains(path, "/.wh.") {
			want[path] = line
		}
	}
	return []*engine.Layer{f.busybox, f.many, middle, top}, want
}

// testLoadMarks loads what containerd's clients load, with Docker.
func testLoadMarks(t *testing.T, h *host) {
	layers, want := markedLayers(t)
	layers, want = addBelow(t, layers, want)
	archive := filepath.Join(t.TempDir(), "marks.tar")
	assert.NilError(t, engine.WriteImage(archive, "marks:latest", layers...))
	h.do(t, "load", "--input", archive)
	got := h.tree(t, "marks")
	assert.Assert(t, cmp.Diff(want, got) == "", "%s", cmp.Diff(want, got))
}

// addBelow adds two layers: what the second one does not say is as it is in the first, and its deletions act on that alone.
func addBelow(t *testing.T, layers []*engine.Layer, want engine.Manifest) ([]*engine.Layer, engine.Manifest) {
	t.Helper()
	open, own := dirEntry("w/tmp", 0o1777, 0), dirEntry("w/h", 0o700, 1000)
	one, two := []byte("one"), []byte("two")
	lower := writeEntries(t, dirEntry("w", 0o755, 0), open, own, symlinkEntry("w/lib", "h"),
		dirEntry("w/t", 0o755, 0), fileEntry("w/t/t", one), fileEntry("w/t/u", one), dirEntry("w/o", 0o755, 0), fileEntry("w/o/old", one),
		dirEntry("w/a", 0o755, 0), fileEntry("w/a/a", one))
	upper := writeEntries(t, fileEntry("w/h/f", two), fileEntry("w/tmp/f", two), fileEntry("w/lib/g", two), fileEntry("w/.wh.t", nil), fileEntry("w/t/.wh.t", nil),
		dirEntry("w/brandnew", 0o755, 0), fileEntry("w/brandnew/.wh.x", nil), dirEntry("w/o", 0o750, 0), fileEntry("w/o/new", two), fileEntry("w/.wh.o", nil),
		dirEntry("w/n", 0o755, 0), fileEntry("w/n/a", two), symlinkEntry("w/a", "n"), fileEntry("w/a/.wh.a", nil))
	shown := writeEntries(t, dirEntry("w", 0o755, 0), open, fileEntry("w/tmp/f", two), own, fileEntry("w/h/f", two), fileEntry("w/h/g", two), symlinkEntry("w/lib", "h"),
		dirEntry("w/brandnew", 0o755, 0), dirEntry("w/o", 0o750, 0), fileEntry("w/o/new", two), dirEntry("w/n", 0o755, 0), fileEntry("w/n/a", two), symlinkEntry("w/a", "n"))
	want = maps.Clone(want)
	maps.Copy(want, manifest(t, shown))
	return append(layers, lower, upper), want
}

// tarEntry writes one entry.
type tarEntry func(*tar.Writer) error

func fileEntry(name string, content []byte) tarEntry {
	return func(tw *tar.Writer) error { return engine.AddFile(tw, name, 0o644, content) }
}

func dirEntry(name string, mode int64, owner int) tarEntry {
	return func(tw *tar.Writer) error {
		return tw.WriteHeader(&tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: mode, Uid: owner, Gid: owner, Format: tar.FormatPAX})
	}
}

func symlinkEntry(name, target string) tarEntry {
	return func(tw *tar.Writer) error {
		return tw.WriteHeader(&tar.Header{Name: name, Linkname: target, Typeflag: tar.TypeSymlink, Mode: 0o777, Format: tar.FormatPAX})
	}
}

func writeEntries(t *testing.T, entries ...tarEntry) *engine.Layer {
	t.Helper()
	l, err := engine.WriteLayer(filepath.Join(t.TempDir(), "layer"), func(tw *tar.Writer) error {
		for _, e := range entries {
			if err := e(tw); err != nil {
				return err
			}
		}
		return nil
	})
	assert.NilError(t, err)
	return l
}
