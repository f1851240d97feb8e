package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
	"gotest.tools/v3/assert"

	"strata/test/e2e/engine"
)

func sorted(s []string) []string { return slices.Sorted(slices.Values(s)) }

// cli runs a strata command in the machine, against the running plugin.
func (h *host) cli(t *testing.T, args ...string) (string, error) {
	t.Helper()
	return engine.Output(h.Command(t.Context(), fixtures(t).strata(), args...))
}

// checkStore asks Strata whether its store is whole and has all that Docker knows.
func (h *host) checkStore(t *testing.T) {
	t.Helper()
	if !h.strata() {
		return
	}
	out, err := h.cli(t, "check", "--docker-root", h.dockerRoot, "--json")
	assert.NilError(t, err, "%s", out)
}

// layers lists the names of the layers in the store.
func (h *host) layers(t *testing.T) []string {
	t.Helper()
	if !h.strata() {
		return h.builtinLayers(t)
	}
	out, err := h.cli(t, "ls", "--json")
	assert.NilError(t, err)
	var infos []struct {
		Name string `json:"name"`
	}
	assert.NilError(t, json.Unmarshal([]byte(out), &infos), "%s", out)
	var names []string
	for _, i := range infos {
		names = append(names, i.Name)
	}
	return names
}

// builtinLayers lists the layers of dockerd's own overlay2, vfs or btrfs driver.
func (h *host) builtinLayers(t *testing.T) []string {
	t.Helper()
	dirs := map[string]string{"overlay2": "overlay2", "vfs": "vfs/dir", "btrfs": "btrfs/subvolumes"}
	entries, err := os.ReadDir(h.Path(h.dockerRoot + "/" + dirs[h.driver]))
	assert.NilError(t, err)
	var names []string
	for _, e := range entries {
		if e.Name() != "l" && e.Name() != "backingFsBlockDev" {
			names = append(names, e.Name())
		}
	}
	return names
}

// prune removes all that Docker has and expects an empty store.
func (h *host) prune(t *testing.T) {
	t.Helper()
	h.pruneDocker(t)
	left := h.layers(t)
	assert.Assert(t, len(left) == 0, "layers left after prune: %q", left)
	h.checkStore(t)
}

// pruneAfterKill is prune after dockerd was killed, perhaps several times. It then forgets layers,
// which strata gc is to find, and others it never forgets, although no image of its has them: those
// of an image that was being loaded. The built-in drivers have nothing that finds the first. They are
// collected before, too: a forgotten child keeps its parent from being removed.
func (h *host) pruneAfterKill(t *testing.T) {
	t.Helper()
	if !h.strata() {
		h.pruneDocker(t)
		return
	}
	h.collect(t)
	h.pruneDocker(t)
	h.collect(t)
	known := h.dockerKnows(t)
	left := slices.DeleteFunc(h.layers(t), func(name string) bool { return known[name] })
	assert.Assert(t, len(left) == 0, "layers left after prune and gc that Docker does not know: %q", left)
	h.checkStore(t)
}

func (h *host) pruneDocker(t *testing.T) {
	t.Helper()
	assert.Assert(t, len(h.layers(t)) > 0, "the store is empty before prune")
	if out := h.do(t, "ps", "--all", "--quiet"); out != "" {
		h.do(t, append([]string{"rm", "--force"}, strings.Fields(out)...)...)
	}
	prune := []string{"system", "prune", "--all", "--force", "--volumes"}
	_, err := h.try(t, prune...)
	if err != nil && h.killed && strings.Contains(err.Error(), "lease") && strings.Contains(err.Error(), "not found") {
		_, err = h.try(t, prune...) // Docker's own, with any driver; the second time it works: moby issue 40480
	}
	assert.NilError(t, err)
	h.do(t, "builder", "prune", "--all", "--force")
	assert.Equal(t, h.do(t, "images", "--all", "--quiet"), "")
}

// dockerKnows returns the names of all layers in Docker's own records (moby layer/filestore.go, and
// builder-next/adapters/snapshot for BuildKit's), also of those that it was about to register when it was killed.
func (h *host) dockerKnows(t *testing.T) map[string]bool {
	t.Helper()
	known := make(map[string]bool)
	layerDB := h.Path(h.dockerRoot + "/image/" + h.driver + "/layerdb/")
	for _, pattern := range []string{"sha256/*/cache-id", "tmp/*/cache-id", "mounts/*/mount-id", "mounts/*/init-id"} {
		files, err := filepath.Glob(layerDB + pattern)
		assert.NilError(t, err)
		for _, f := range files {
			b, err := os.ReadFile(f)
			assert.NilError(t, err)
			known[string(b)] = true
		}
	}
	h.stop(t) // it has the database locked
	db, err := bolt.Open(h.Path(h.dockerRoot+"/buildkit/snapshots.db"), 0o600, &bolt.Options{ReadOnly: true})
	assert.NilError(t, err)
	assert.NilError(t, db.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
			known[string(name)], known[string(b.Get([]byte("committed")))] = true, true
			return nil
		})
	}))
	assert.NilError(t, db.Close())
	h.start(t)
	return known
}

// collect runs strata gc against Docker's own records. Status 3 says that orphans were found. Where Docker has none of the
// store's layers any more, gc wants to be told so.
func (h *host) collect(t *testing.T) {
	t.Helper()
	args := []string{"gc", "--docker-root", h.dockerRoot, "--older-than=0s", "--yes", "--json"}
	out, err := h.cli(t, args...)
	if err != nil && strings.Contains(fmt.Sprint(out, err), "--docker-gone") {
		out, err = h.cli(t, append(args, "--docker-gone")...)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 3 {
		err = nil
	}
	assert.NilError(t, err, "%s", out)
	t.Logf("strata gc: %s", out)
}

// TestLostRoot takes the store away while Docker is stopped, as a disk that is not mounted does, and gives it back.
func TestLostRoot(t *testing.T) {
	forReleases(t, func(t *testing.T, s setup) {
		if !s.strata() {
			t.Skip("only Strata notices")
		}
		s.fs = "ext4" // so that Docker's record and the store are both where they are by default
		h := newHost(t, s)
		h.install(t)
		h.start(t)
		h.do(t, "load", "--input", fixtures(t).archive("busybox"))
		h.do(t, "create", "--network=none", "--name=kept", "busybox", "true")
		warning := func(t *testing.T) (all string) {
			t.Helper()
			var rows [][2]string
			assert.NilError(t, json.Unmarshal([]byte(h.do(t, "info", "--format={{json .DriverStatus}}")), &rows))
			for _, row := range rows {
				if row[0] == "WARNING" {
					all += row[1]
				}
			}
			return all
		}
		assert.Equal(t, warning(t), "")
		// Beside the plugin, which is in a process namespace of its own.
		out, err := engine.Output(h.Command(t.Context(), "env", "-i", fixtures(t).strata(), "gc", "--root=/var/lib/strata", "--yes"))
		assert.Assert(t, err != nil && regexp.MustCompile(`open, process [0-9]+ \(/strata serve`).MatchString(fmt.Sprint(out, err)), "%s %v", out, err)
		h.stop(t)
		root := h.Path("/var/lib/strata")
		assert.NilError(t, os.Rename(root, root+".away"))

		h.start(t)
		const says = "/var/lib/strata is new"
		assert.Assert(t, strings.Contains(warning(t), says), warning(t))
		assert.Assert(t, strings.Contains(warning(t), "1 of images and 1 of containers (strata check --docker-root /var/lib/docker "), warning(t))
		out, err = h.cli(t, "check", "--docker-root="+h.dockerRoot)
		assert.Assert(t, err != nil && strings.Contains(out, "kept"), "%s", out)
		assert.Assert(t, strings.Contains(h.docker.Log(), says), "the log says nothing")
		found, err := h.cli(t, "check", "--docker-root", h.dockerRoot)
		var exit *exec.ExitError
		assert.Assert(t, errors.As(err, &exit) && exit.ExitCode() == 3, "%v: %s", err, found)
		for _, want := range []string{"wrong-store", "layers that Docker has in its record is in this store, /var/lib/strata", "container kept", "image docker.io/library/busybox"} {
			assert.Assert(t, strings.Contains(found, want), "%s is missing in:\n%s", want, found)
		}
		h.stop(t)

		assert.NilError(t, os.RemoveAll(root))
		assert.NilError(t, os.Rename(root+".away", root))
		h.start(t)
		assert.Equal(t, warning(t), "")
		h.checkStore(t)
		name := h.do(t, "inspect", "--format={{.GraphDriver.Data.Name}}", "kept")
		_, err = h.cli(t, "usage", strings.TrimSpace(name))
		assert.NilError(t, err)
		h.do(t, "start", "--attach", "kept")
		h.do(t, "rm", "kept")
		h.prune(t)
	})
}
