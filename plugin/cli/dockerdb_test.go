package cli

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"gotest.tools/v3/assert"
)

// TestDockerLayers reads a data root whose path and driver name hold characters that mean something
// in a pattern.
func TestDockerLayers(t *testing.T) {
	root := filepath.Join(t.TempDir(), `a[b]*c?\d`)
	write := func(path, text string) {
		path = filepath.Join(root, "image", path)
		assert.NilError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		assert.NilError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	_, err := dockerLayers(root)
	assert.Assert(t, errdefs.IsNotFound(err), "%v", err)

	write("overlay2/layerdb/sha256/1/cache-id", "builtin")
	_, err = dockerLayers(root)
	assert.Assert(t, errdefs.IsNotFound(err), "%v", err)

	write("localhost:5000/strata:latest/layerdb/sha256/2/size", "12")
	n, err := dockerLayers(root)
	assert.NilError(t, err)
	assert.Assert(t, !n.plugins, "the built-in driver's count as a plugin's")
	assert.DeepEqual(t, n.known, set("builtin"))

	write("localhost:5000/strata:latest/layerdb/sha256/2/cache-id", "image\n")
	write("localhost:5000/strata:latest/layerdb/sha256/3-4-removing/cache-id", "removed")
	write("localhost:5000/strata:latest/layerdb/tmp/write-set-1/cache-id", "registering")
	write("localhost:5000/strata:latest/layerdb/mounts/5/mount-id", "container")
	write("localhost:5000/strata:latest/layerdb/mounts/5/init-id", "container-init")
	write("localhost:5000/strata:latest/layerdb/mounts/6/init-id", "")
	write("localhost:5000/strata:latest/imagedb/layerdb/sha256/7/cache-id", "not a layer")
	n, err = dockerLayers(root)
	assert.NilError(t, err)
	assert.Assert(t, n.plugins && !n.snapshots)
	assert.DeepEqual(t, n.known, set("builtin image removed registering container container-init"))
}
