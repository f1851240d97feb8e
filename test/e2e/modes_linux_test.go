package e2e

import (
	"context"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/test/e2e/engine"
)

// TestLiveRestore keeps a container running while daemons come and go, killed or stopped.
func TestLiveRestore(t *testing.T) {
	forReleases(t, func(t *testing.T, s setup) {
		s.fs = "ext4"
		h := newHost(t, s)
		h.flags = []string{"--live-restore"}
		h.install(t)
		h.start(t)
		h.do(t, "load", "--input", fixtures(t).archive("many"))
		id := h.detach(t, "many", "rm -r /many/d001; echo before > /before")
		pid := h.do(t, "inspect", "--format={{.State.Pid}}", id)
		same := func(t *testing.T) {
			t.Helper()
			assert.Equal(t, h.do(t, "inspect", "--format={{.State.Pid}}", id), pid)
			assert.Equal(t, h.do(t, "exec", id, "sh", "-c", "cat /before; find /many -type f | wc -l"), "before\n4900")
			assert.Assert(t, strings.Contains(h.do(t, "diff", id), "D /many/d001"))
			h.do(t, "commit", id, "committed")
			assert.Equal(t, h.run(t, "committed", "find /many -type f | wc -l"), "4900")
			h.checkStore(t)
		}
		same(t)
		t.Run("stop", func(t *testing.T) { h.restart(t); same(t) })
		t.Run("kill-dockerd", func(t *testing.T) { h.kill(t, killDocker); h.revive(t, killDocker); same(t) })
		if h.strata() {
			t.Run("kill-plugin", func(t *testing.T) { h.kill(t, killPlugin); h.revive(t, killPlugin); same(t) })
			t.Run("kill-both", func(t *testing.T) { h.kill(t, killBoth); h.revive(t, killBoth); same(t) })
		}
		h.do(t, "restart", id)
		assert.Equal(t, h.do(t, "exec", id, "cat", "/before"), "before")
		h.do(t, "rm", "--force", id)
		h.prune(t)
	})
}

// TestUserns runs the daemon with remapped users: what is root in a container is 100000 outside.
func TestUserns(t *testing.T) {
	forReleases(t, func(t *testing.T, s setup) {
		s.subIDs, s.fs = true, "ext4"
		h := newHost(t, s)
		h.flags = []string{"--userns-remap=daemon"}
		h.dockerRoot = "/var/lib/docker/100000.100000"
		h.install(t)
		h.start(t)
		runScenarios(t, h, imageScenarios(), true)
		h.do(t, "load", "--input", fixtures(t).archive("busybox"))
		id := h.detach(t, "busybox", "chown 1000:1000 /tmp && stat -c %u:%g /bin/busybox /tmp > /owners")
		assert.Equal(t, h.do(t, "exec", id, "cat", "/owners"), "0:0\n1000:1000")
		var st unix.Stat_t
		root := "/proc/" + h.outsidePID(t, id) + "/root"
		assert.NilError(t, unix.Stat(root+"/bin/busybox", &st))
		assert.Equal(t, st.Uid, uint32(firstSubID))
		assert.NilError(t, unix.Stat(root+"/tmp", &st))
		assert.Equal(t, st.Uid, uint32(firstSubID+1000))
		h.do(t, "rm", "--force", id)
		h.prune(t)
	})
}

// outsidePID returns the process id that a container's first process has on the real host.
func (h *host) outsidePID(t *testing.T, container string) string {
	t.Helper()
	inside := h.do(t, "inspect", "--format={{.State.Pid}}", container)
	dirs, err := os.ReadDir("/proc")
	assert.NilError(t, err)
	for _, d := range dirs {
		if _, err := strconv.Atoi(d.Name()); err != nil {
			continue
		}
		b, err := os.ReadFile("/proc/" + d.Name() + "/status")
		cgroup, cgErr := os.ReadFile("/proc/" + d.Name() + "/cgroup")
		if err != nil || cgErr != nil || !strings.Contains(string(cgroup), container) {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); f[0] == "NSpid:" && len(f) > 2 && f[len(f)-2] == inside {
				return d.Name()
			}
		}
	}
	t.Fatalf("no process of container %s has number %s inside", container, inside)
	return ""
}

// TestBackends runs the scenarios on the other backends, and on file systems of their own.
func TestBackends(t *testing.T) {
	forReleases(t, func(t *testing.T, s setup) {
		if !s.strata() {
			t.Skip("only Strata has backends")
		}
		// What lies below the store is nothing that an engine could know: one of them is enough.
		releases := engine.Releases()
		first, last := releases[0].Version, releases[len(releases)-1].Version
		for _, b := range []struct {
			name, backend, fs string
			options           []string
			release           string // "" for all
		}{
			{"vfs", "vfs", "", []string{"STRATA_SYNC=none"}, first},
			{"btrfs", "btrfs", "btrfs", nil, last},
			{"overlay-on-xfs", "overlay", "xfs", nil, last},
			{"overlay-inexact", "overlay", "", []string{"STRATA_EXACT_DIFFS=false", "STRATA_SYNC=none"}, ""},
		} {
			if b.release != "" && b.release != s.release.Version {
				continue
			}
			t.Run(b.name, func(t *testing.T) {
				s.fs = b.fs
				s.options = append([]string{"STRATA_BACKEND=" + b.backend}, b.options...)
				h := newHost(t, s)
				h.install(t)
				h.start(t)
				runScenarios(t, h, imageScenarios(), true)
				h.prune(t)
			})
		}
	})
}

// TestLegacySocket runs Strata as a plain daemon beside dockerd, without a plugin container.
func TestLegacySocket(t *testing.T) {
	forReleases(t, func(t *testing.T, s setup) {
		if !s.strata() {
			t.Skip("only Strata is a plugin")
		}
		h := newHost(t, s)
		h.serve(t)
		h.start(t)
		runScenarios(t, h, imageScenarios(), true)
		h.do(t, "load", "--input", fixtures(t).archive("many"))
		id := h.detach(t, "many", "echo kept > /kept")
		h.kill(t, killPlugin)
		h.served()
		h.serve(t)
		assert.Equal(t, h.do(t, "exec", id, "cat", "/kept"), "kept")
		h.do(t, "restart", id)
		assert.Equal(t, h.do(t, "exec", id, "cat", "/kept"), "kept")
		h.do(t, "rm", "--force", id)
		h.prune(t)
		h.stop(t)
		h.stopServing(t)
	})
}

// stopServing ends what serve started, as a service manager does, and looks for what it left.
func (h *host) stopServing(t *testing.T) {
	t.Helper()
	procs, err := h.Find("strata")
	assert.NilError(t, err)
	for _, p := range procs {
		assert.NilError(t, p.Signal(unix.SIGTERM))
	}
	h.served()
	left, err := h.Left()
	assert.NilError(t, err)
	assert.Equal(t, len(left), 0, "%q", left)
}

// serve starts strata as a daemon in the machine; h.served then waits for its end.
func (h *host) serve(t *testing.T) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	assert.NilError(t, os.MkdirAll(h.Path("/run/docker/plugins"), 0o755))
	cmd := h.Command(ctx, fixtures(t).strata(), "serve", "--graphdriver-socket", "/run/docker/plugins/strata.sock")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")} // not STRATA_E2E, which it would refuse
	end := h.background(t, cmd)
	for try := 0; ; try++ {
		if _, err := os.Stat(h.Path("/run/docker/plugins/strata.sock")); err == nil {
			break
		}
		if try == 100 {
			t.Fatalf("strata serve does not listen: %v", end())
		}
		time.Sleep(20 * time.Millisecond)
	}
	h.served = func() {
		done := make(chan error, 1)
		go func() { done <- end() }()
		select {
		case err := <-done:
			t.Logf("strata serve ended: %v", err)
		case <-time.After(20 * time.Second):
			t.Error("strata serve does not end")
		}
	}
}
