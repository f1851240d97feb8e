package e2e

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"gotest.tools/v3/assert"

	"strata/test/e2e/engine"
)

// tree returns what an image holds. It does without `ctr images mount`: that of containerd 1.6 mounts what overlayfs has, whatever its
// flag --snapshotter says. And a view of ctr's has no label that keeps it from being collected.
func (h *containerdHost) tree(t *testing.T, image string) engine.Manifest {
	t.Helper()
	const dir, key = "/run/tree", "tree"
	h.run(t, "mkdir", "-p", dir)
	mount := h.ctr(t, "snapshots", "--snapshotter", "strata", "prepare", "--target", dir, key, h.top(t, image))
	defer h.ctr(t, "snapshots", "--snapshotter", "strata", "rm", key)
	h.run(t, "sh", "-c", mount)
	defer h.run(t, "umount", dir)
	return h.readTree(t, dir)
}

// top returns the key of the snapshot of an image's last layer.
func (h *containerdHost) top(t *testing.T, image string) string {
	t.Helper()
	var manifest ocispec.Manifest
	var config ocispec.Image
	digest := strings.Fields(h.ctr(t, "images", "ls", "name=="+image))
	assert.Assert(t, slices.Contains(digest, image), "%v", digest)
	assert.NilError(t, json.Unmarshal([]byte(h.ctr(t, "content", "get", digest[slices.Index(digest, image)+2])), &manifest))
	assert.NilError(t, json.Unmarshal([]byte(h.ctr(t, "content", "get", manifest.Config.Digest.String())), &config))
	return identity.ChainID(config.RootFS.DiffIDs).String()
}

// await waits until containerd has found Strata again after its end, for which it takes its time.
func (h *containerdHost) await(t *testing.T) {
	t.Helper()
	const patience = time.Minute
	for begin := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		_, err := h.try(t, "ctr", "snapshots", "--snapshotter", "strata", "ls")
		if err == nil {
			return
		}
		assert.Assert(t, strings.Contains(err.Error(), "unavailable") && time.Since(begin) < patience, "%v", err)
	}
}

func (h *containerdHost) readTree(t *testing.T, dir string) engine.Manifest {
	t.Helper()
	tar, err := h.Command(t.Context(), "tar", "-C", dir, "--xattrs", "--sort=name", "-c", ".").Output()
	assert.NilError(t, err)
	m, err := engine.ReadManifest(bytes.NewReader(tar))
	assert.NilError(t, err)
	return m.Without()
}
