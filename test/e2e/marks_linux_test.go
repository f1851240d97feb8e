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
