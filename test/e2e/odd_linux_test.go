package e2e

import (
	"archive/tar"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"strata/test/e2e/engine"
)

// oddLayer says what the layer of an image holds that makes no sense on Linux, or only to some.
type oddLayer struct {
	owners     bool // -1 and -2
	nameless   bool // a file without a name, which Docker takes for a second "./" and does not want where it keeps tars itself
	attributes bool // that Linux does not have: Docker's own drivers refuse them
}

// write makes an image of busybox and the layer.
func (o oddLayer) write(t *testing.T) (archive string) {
	t.Helper()
	dir := t.TempDir()
	odd, err := engine.WriteLayer(filepath.Join(dir, "odd"), func(tw *tar.Writer) error {
		node := func(name string, kind byte, major, minor int64) error {
			return tw.WriteHeader(&tar.Header{Name: name, Typeflag: kind, Mode: 0o640, Devmajor: major, Devminor: minor, Format: tar.FormatGNU})
		}
		err := errors.Join(
			tw.WriteHeader(&tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o700, Uid: 5, ModTime: time.Unix(1, 0)}),
			engine.AddFile(tw, "./../x/f.jar", 0o644, []byte("jar")),
			engine.AddFile(tw, "odd/target", 0o644, []byte("target")),
			tw.WriteHeader(&tar.Header{Name: "odd/hard", Typeflag: tar.TypeLink, Linkname: "../../odd/target", Mode: 0o644, ModTime: time.Unix(1e9, 0)}),
			node("odd/device", tar.TypeChar, 4096+1, 1<<20+3), node("home", tar.TypeChar, 0, 0))
		if o.owners {
			for name, id := range map[string]int{"odd/root": -1, "odd/nobody": -2} {
				err = errors.Join(err, tw.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o600, Uid: id, Gid: id, Format: tar.FormatGNU}))
			}
		}
		if o.nameless {
			err = errors.Join(err, engine.AddFile(tw, "", 0o644, []byte("nothing")))
		}
		if o.attributes {
			err = errors.Join(err, tw.WriteHeader(&tar.Header{
				Name: "odd/mac", Typeflag: tar.TypeReg, Mode: 0o600, PAXRecords: map[string]string{
					"SCHILY.xattr.com.apple.provenance": "p", "SCHILY.xattr.lustre.lov": "l",
				},
			}))
		}
		return err
	})
	assert.NilError(t, err)
	archive = filepath.Join(dir, "odd.tar")
	assert.NilError(t, engine.WriteImage(archive, "odd:latest", fixtures(t).busybox, odd))
	return archive
}

// check looks at what a container of the image sees.
func (o oddLayer) check(t *testing.T, got engine.Manifest, deletes bool) {
	t.Helper()
	want := map[string]string{"/x": "5 755 0:0", "/x/f.jar": "0 644 0:0", "/odd/target": "0 644 0:0", "/odd/device": "3 640 0:0 1,3"}
	if o.owners {
		want["/odd/root"], want["/odd/nobody"] = "0 600 0:0", "0 600 4294967294:4294967294"
	}
	for path, line := range want {
		assert.Assert(t, strings.HasPrefix(got[path], line), "%s: %q", path, got[path])
	}
	assert.Equal(t, got["/odd/hard"], got["/odd/target"])
	if deletes {
		assert.Equal(t, got["/home"], "")
	} else {
		assert.Equal(t, got["/home"], "3 640 0:0 0,0")
	}
	if o.attributes {
		assert.Assert(t, strings.HasPrefix(got["/odd/mac"], "0 600 0:0"), "%v", got)
	}
}

// testOddLayer loads an image that Docker's own overlay2 takes, and one that only containerd does besides.
func testOddLayer(t *testing.T, h *host) {
	o := oddLayer{owners: !h.subIDs, attributes: driverName() == "strata"}
	h.do(t, "load", "--input", o.write(t))
	status := h.do(t, "info", "--format", "{{.Driver}} {{.DriverStatus}}")
	o.check(t, h.tree(t, "odd"), strings.HasPrefix(status, "overlay2 ") || strings.Contains(status, "[Backend overlay]"))
	assert.Equal(t, h.run(t, "odd", "stat -c %a /"), "755")
	assert.Equal(t, h.do(t, "run", "--rm", "--network=none", "--user=1000", "odd", "cat", "/x/f.jar"), "jar")
}

// odd imports the same image, unpacked by containerd or by Strata, and one that has a layer of no bytes.
func (h *containerdHost) odd(t *testing.T) {
	t.Helper()
	o := oddLayer{owners: true, nameless: true, attributes: h.new || h.differ}
	h.ctr(t, "images", "import", "--snapshotter", "strata", o.write(t))
	o.check(t, h.tree(t, dockerIO+"odd:latest"), h.backend == "overlay")
	assert.Equal(t, h.container(t, dockerIO+"odd:latest", "odd", "stat -c %a /"), "755")
	dir := t.TempDir()
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "empty"), nil, 0o600))
	empty, err := engine.ReadLayer(filepath.Join(dir, "empty"))
	assert.NilError(t, err)
	assert.NilError(t, engine.WriteImage(filepath.Join(dir, "empty.tar"), "empty:latest", fixtures(t).busybox, empty))
	h.ctr(t, "images", "import", "--snapshotter", "strata", filepath.Join(dir, "empty.tar"))
	assert.Equal(t, h.container(t, dockerIO+"empty:latest", "empty", "echo works"), "works")
}
