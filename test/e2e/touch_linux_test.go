package e2e

import (
	"archive/tar"
	"bytes"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"strata/test/e2e/engine"
)

// touchScript changes files of the image "clamped" so that size and time stay, and touchedCheck ends well where all of it is.
const (
	touchScript = `cd /t
printf '1.2.4\n' > inplace; touch -d @1000000000 inplace
printf '1.2.4\n' > w; touch -d @1000000000 w; mv w moved
printf '1.2.4\n' > w; touch -d @1000000000 w; ln -f w linked
rm recreated; printf '1.2.4\n' > recreated; touch -d @1000000000 recreated
ln more more2; ln -f one two
chmod 600 mode; chmod 644 mode
touch -d @1111111111 sub; touch -d @1000000000 .`

	touchedCheck = `set -e; cd /t
for f in inplace moved linked recreated; do test "$(cat $f) $(stat -c %Y $f)" = "1.2.4 1000000000"; done
for f in more mode one; do test "$(cat $f) $(stat -c %Y $f)" = "1.2.3 1000000000"; done
test more -ef more2; test one -ef two; test linked -ef w
test "$(stat -c %Y sub)" = 1111111111
echo right`
)

// clamped writes an archive of an image whose files are all of one time.
func clamped(t *testing.T) string {
	t.Helper()
	layer := func(tw *tar.Writer) error {
		when := time.Unix(1000000000, 0)
		for _, dir := range []string{"t/", "t/sub/"} {
			if err := tw.WriteHeader(&tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: 0o755, ModTime: when}); err != nil {
				return err
			}
		}
		for _, name := range []string{"inplace", "moved", "linked", "recreated", "more", "one", "two", "mode"} {
			content := []byte("1.2.3\n")
			h := &tar.Header{Name: path.Join("t", name), Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content)), ModTime: when}
			if err := tw.WriteHeader(h); err != nil {
				return err
			}
			if _, err := tw.Write(content); err != nil {
				return err
			}
		}
		return nil
	}
	dir := t.TempDir()
	l, err := engine.WriteLayer(filepath.Join(dir, "clamped.layer"), layer)
	assert.NilError(t, err)
	archive := filepath.Join(dir, "clamped.tar")
	assert.NilError(t, engine.WriteImage(archive, "clamped:latest", fixtures(t).busybox, l))
	return archive
}

// testTouched takes what looks the same through commit and builds, and through save and load.
func testTouched(t *testing.T, h *host) {
	h.do(t, "load", "--input", clamped(t))
	id := h.do(t, "create", "--network=none", "clamped", "sh", "-c", touchScript)
	h.do(t, "start", "--attach", id)
	for _, name := range []string{"inplace", "moved", "linked", "recreated"} { // Docker's naive comparison sees none of them
		assert.Assert(t, !h.strata() || strings.Contains(h.do(t, "diff", id), "C /t/"+name), "%s", h.do(t, "diff", id))
	}
	h.do(t, "commit", id, "touched:commit")
	h.do(t, "rm", id)
	dir := buildContext(t, "Dockerfile", "FROM clamped\nCOPY script /script\nRUN sh /script\n", "script", touchScript)
	images := []string{"touched:commit", "touched:buildkit", "touched:classic"}
	h.build(t, true, dir, "--tag", images[1])
	h.build(t, false, dir, "--tag", images[2])
	saved := t.TempDir()
	for _, image := range images {
		assert.Equal(t, h.run(t, image, touchedCheck), "right", image)
		// One at a time: of several images in one archive Docker 26.1 keeps layers that no prune removes, on its own vfs, too.
		h.do(t, "save", "--output", filepath.Join(saved, path.Base(image)), image)
	}
	h.do(t, append([]string{"rmi"}, images...)...)
	for _, image := range images {
		h.do(t, "load", "--input", filepath.Join(saved, path.Base(image)))
		assert.Equal(t, h.run(t, image, touchedCheck), "right", image)
	}
	h.do(t, append([]string{"rmi"}, images...)...)
}

// touched has containerd compare a container's snapshot with the image's.
func (h *containerdHost) touched(t *testing.T) {
	t.Helper()
	h.ctr(t, "images", "import", "--snapshotter", "strata", clamped(t))
	h.ctr(t, "run", "--snapshotter", "strata", "--cgroup", h.Cgroup()+"/touched", dockerIO+"clamped:latest", "touched", "sh", "-c", touchScript)
	compared := []byte(h.ctr(t, "snapshots", "--snapshotter", "strata", "diff", "--media-type", "application/vnd.oci.image.layer.v1.tar", "touched"))
	m, err := engine.ReadManifest(bytes.NewReader(compared))
	assert.NilError(t, err)
	paths := []string{"/t/inplace", "/t/moved", "/t/linked", "/t/recreated", "/t/more2"}
	if h.new && h.differ { // containerd's own makes of two names two files, and passes over times of directories
		paths = append(paths, "/t/more", "/t/one", "/t/two", "/t/sub")
	}
	for _, path := range paths {
		assert.Assert(t, m[path] != "", "%s is missing in %v", path, m)
	}
	h.ctr(t, "containers", "rm", "touched")
}
