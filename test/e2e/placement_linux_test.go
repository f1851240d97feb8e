package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
)

// TestRunInRoot kills dockerd on a host whose /run is no mount of its own. Layers are then mounted in the plugin's propagated
// mount, which the next dockerd takes away while it starts the plugin, sometimes before the plugin runs.
func TestRunInRoot(t *testing.T) {
	forReleases(t, func(t *testing.T, s setup) {
		h := newHostWithoutRun(t, s)
		for i, mounts := range []int{0, 12, 24, 48, 24, 36} {
			t.Run(fmt.Sprintf("kill-%d", i), func(t *testing.T) {
				if i%2 == 0 {
					h.detach(t, "busybox", "echo up > /up")
				}
				// The more there is to unmount, the later the propagated mount itself is.
				h.mountBelow(t, h.propagated(t), mounts)
				h.kill(t, killDocker)
				h.revive(t, killDocker)
				t.Logf("the plugin has started anew %d times", strings.Count(h.docker.Log(), "starts anew"))
				h.works(t)
			})
		}
		if h.mounted(t, h.propagated(t)) { // the last dockerd may have taken it away already
			h.umount(t, h.propagated(t))
		}
		h.works(t) // what it was mounted on is shared, too
		h.pruneAfterKill(t)
	})
}

// TestPropagatedMountTaken is about a host that shares no mounts, not even /run, as without systemd. dockerd then shares its own directory,
// and the plugin's in it, and takes both away when it ends, even if the plugin goes on with --live-restore.
func TestPropagatedMountTaken(t *testing.T) {
	forReleases(t, func(t *testing.T, s setup) {
		h := newHostWithoutRun(t, s, "mount", "--make-rprivate", "/")
		h.flags = []string{"--live-restore"}
		h.restart(t)
		h.anew = true
		t.Run("live-restore", func(t *testing.T) {
			h.restart(t)
			h.works(t)
		})
		t.Run("kill", func(t *testing.T) {
			h.kill(t, killDocker)
			h.revive(t, killDocker)
			h.works(t)
		})
		t.Run("idle", func(t *testing.T) {
			before := h.pluginPID(t)
			h.umount(t, h.dockerRoot)
			h.awaitPlugin(t, before)
			h.works(t)
		})
		t.Run("in-use", func(t *testing.T) {
			id := h.do(t, "create", "--network=none", "busybox", "echo", "later")
			before := h.pluginPID(t)
			h.umount(t, h.propagated(t))
			_, err := h.try(t, "start", id) // fails, unless the plugin has noticed by itself
			t.Logf("start: %v", err)
			h.nothingBelow(t)
			h.awaitPlugin(t, before)
			assert.Equal(t, h.do(t, "start", "--attach", id), "later")
			h.do(t, "rm", id)
			h.works(t)
		})
		h.pruneAfterKill(t)
	})
}

// newHostWithoutRun makes a host whose /run belongs to the root file system, runs a command on it, and starts a dockerd that has an image.
func newHostWithoutRun(t *testing.T, s setup, command ...string) *host {
	t.Helper()
	if !s.strata() {
		t.Skip("only Strata is a plugin")
	}
	s.fs = "root"
	h := newHost(t, s)
	if len(command) > 0 {
		out, err := h.Command(t.Context(), command[0], command[1:]...).CombinedOutput()
		assert.NilError(t, err, "%s", out)
	}
	h.install(t)
	h.start(t)
	h.do(t, "load", "--input", fixtures(t).archive("busybox"))
	h.works(t)
	return h
}

// works runs a container, and expects that what Docker wrote into its layers is in them.
func (h *host) works(t *testing.T) {
	t.Helper()
	assert.Equal(t, h.run(t, "busybox", "echo here"), "here")
	h.nothingBelow(t)
	h.checkStore(t)
}

// propagated is the plugin's propagated mount.
func (h *host) propagated(t *testing.T) string {
	t.Helper()
	found, err := filepath.Glob(h.Path(h.dockerRoot + "/plugins/*/propagated-mount"))
	assert.NilError(t, err)
	assert.Equal(t, len(found), 1, "%q", found)
	return strings.TrimPrefix(found[0], h.Path(""))
}

// mountBelow mounts n small file systems in a directory of the machine.
func (h *host) mountBelow(t *testing.T, dir string, n int) {
	t.Helper()
	const script = `for i in $(seq "$2"); do mkdir -p "$1/busy$i" && mount -t tmpfs tmpfs "$1/busy$i" || exit 1; done`
	out, err := h.Command(t.Context(), "sh", "-c", script, "mount", dir, strconv.Itoa(n)).CombinedOutput()
	assert.NilError(t, err, "%s", out)
}

// mounted tells whether something is mounted on a directory of the machine.
func (h *host) mounted(t *testing.T, dir string) bool {
	t.Helper()
	err := h.Command(t.Context(), "mountpoint", "--quiet", dir).Run()
	var exit *exec.ExitError
	assert.Assert(t, err == nil || errors.As(err, &exit), "%v", err)
	return err == nil
}

// umount takes the mounts on a directory of the machine and below it away.
func (h *host) umount(t *testing.T, dir string) {
	t.Helper()
	out, err := h.Command(t.Context(), "umount", "--recursive", "--lazy", dir).CombinedOutput()
	assert.NilError(t, err, "%s", out)
}

// nothingBelow expects that what Docker wrote into layers got there, and not below their mounts.
func (h *host) nothingBelow(t *testing.T) {
	t.Helper()
	top := h.Path(h.propagated(t) + "/mnt")
	err := filepath.WalkDir(top, func(path string, _ os.DirEntry, err error) error {
		if err == nil && strings.Count(strings.TrimPrefix(path, top), "/") > 1 {
			t.Errorf("%s was written below a mount", path)
		}
		return err
	})
	assert.NilError(t, err)
}

func (h *host) pluginPID(t *testing.T) int {
	t.Helper()
	procs, err := h.Find("strata")
	assert.NilError(t, err)
	assert.Assert(t, len(procs) <= 1, "%v", procs)
	if len(procs) == 0 {
		return 0
	}
	return procs[0].PID
}

// awaitPlugin waits until the plugin is another process than before, and answers.
func (h *host) awaitPlugin(t *testing.T, before int) {
	t.Helper()
	for range 200 {
		if now := h.pluginPID(t); now != 0 && now != before {
			h.revive(t, killPlugin)
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("the plugin does not start anew")
}
