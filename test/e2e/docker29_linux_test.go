package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"gotest.tools/v3/assert"

	"strata/test/e2e/engine"
)

// TestDocker29 runs a Docker of version 29 on containerd 2, whose snapshotter and perhaps differ Strata is.
func TestDocker29(t *testing.T) {
	testDockers(t, engine.Docker29(), map[string]containerdSetup{
		"overlay":        {backend: "overlay", new: true},
		"overlay-differ": {backend: "overlay", new: true, differ: true},
		"btrfs-differ":   {backend: "btrfs", new: true, fs: "btrfs", differ: true},
		"vfs":            {backend: "vfs", new: true},
	})
}

// TestDocker28 runs a Docker of version 28 in the mode that has become 29's, on containerd 2.1.
func TestDocker28(t *testing.T) {
	testDockers(t, engine.Docker28(), map[string]containerdSetup{
		"overlay-differ": {backend: "overlay", new: true, serial: true, differ: true},
		"btrfs":          {backend: "btrfs", new: true, serial: true, fs: "btrfs"},
	})
}

// TestDocker27 runs Docker 27 in the mode that has become 29's, on Debian's containerd 1.6.
func TestDocker27(t *testing.T) {
	testDockers(t, engine.Docker27(), map[string]containerdSetup{
		"overlay": {backend: "overlay"},
		"btrfs":   {backend: "btrfs", fs: "btrfs"},
	})
}

// TestDocker29Managed: Docker 29 runs Strata as its plugin, and stores with it.
func TestDocker29Managed(t *testing.T) {
	testDockerManaged(t, engine.Docker29())
}

// TestDocker28Managed is the same with 28.
func TestDocker28Managed(t *testing.T) {
	testDockerManaged(t, engine.Docker28())
}

func testDockerManaged(t *testing.T, programs engine.Programs) {
	t.Helper()
	h := newContainerdHost(t, containerdSetup{usr: builtUsr(t, programs), backend: "overlay", fs: "ext4", new: true, differ: true, managed: true})
	d := &host{Machine: h.Machine}
	h.startDockerOn(t, "overlayfs")
	assert.Equal(t, d.api(t), programs.API)
	d.do(t, "plugin", "create", "strata", fixtures(t).plugins[0])
	d.do(t, "plugin", "set", "strata", "STRATA_SNAPSHOTTER_SOCKET="+snapshotterSocket)
	d.do(t, "plugin", "enable", "strata")
	assert.NilError(t, h.docker.Stop())
	h.startDocker(t)
	testContainerdStore(t, d)
	h.clear(t, "moby")
}

func testDockers(t *testing.T, programs engine.Programs, setups map[string]containerdSetup) {
	t.Helper()
	usr := builtUsr(t, programs)
	for name, s := range setups {
		s.usr = usr
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newContainerdHost(t, s)
			testContainerd(t, h)
			if s.new {
				testHandOver(t, h)
			}
			h.startDocker(t)
			d := &host{Machine: h.Machine}
			assert.Equal(t, d.api(t), programs.API)
			testContainerdStore(t, d)
			testDockerKill(t, h)
			h.clear(t, "default", "moby")
		})
	}
}

// api is the version of Docker's API that the dockerd speaks, by which it is known.
func (h *host) api(t *testing.T) string {
	t.Helper()
	return h.do(t, "version", "--format={{.Server.APIVersion}}")
}

// startDocker starts a dockerd that keeps images in containerd, as docs/docker.md has it.
func (h *containerdHost) startDocker(t *testing.T) {
	t.Helper()
	h.startDockerOn(t, "strata")
}

func (h *containerdHost) startDockerOn(t *testing.T, driver string) {
	t.Helper()
	config := `{"features": {"containerd-snapshotter": true}, "storage-driver": "` + driver + `"}`
	assert.NilError(t, os.WriteFile(h.Path("/etc/docker-strata.json"), []byte(config), 0o600))
	h.run(t, "mkdir", "-p", "/run/tmp") // a dockerd that is killed leaves directories there
	s, err := h.Serve(t.Context(), "dockerd", "/run/docker.sock", "env", "TMPDIR=/run/tmp", "DOCKER_MIN_API_VERSION=1.41", "dockerd",
		"--config-file=/etc/docker-strata.json", "--containerd="+containerdSocket, "--cgroup-parent="+h.Cgroup(),
		"--bridge=none", "--iptables=false", "--ip6tables=false", "--seccomp-profile=unconfined")
	assert.NilError(t, err)
	h.docker = s
}

// testContainerdStore does what users do all day with a Docker that keeps its images in containerd.
func testContainerdStore(t *testing.T, h *host) {
	f := fixtures(t)
	assert.Equal(t, h.do(t, "info", "--format={{.Driver}}"), "strata")
	for name, layers := range map[string][]*engine.Layer{"busybox": {f.busybox}, "debian": {f.debian}, "many": {f.busybox, f.many}} {
		h.do(t, "load", "--input", f.archive(name))
		got, want := h.tree(t, name), manifest(t, layers...)
		assert.Assert(t, cmp.Diff(want, got) == "", "%s: %s", name, cmp.Diff(want, got))
	}
	id := h.do(t, "create", "--network=none", "busybox", "sh", "-c", "rm /etc/group; echo new >/new; mv /home /moved")
	h.do(t, "start", "--attach", id)
	assert.DeepEqual(t, h.diff(t, id), strings.Split("A /moved,A /new,C /etc,D /etc/group,D /home", ","))
	h.do(t, "commit", id, "committed")
	run := func(image, script string) string {
		return h.do(t, "run", "--rm", "--network=none", image, "sh", "-c", script)
	}
	assert.Equal(t, run("committed", "cat /new; test ! -e /etc/group; test -d /moved && echo ok"), "new\nok")
	dir := buildContext(t, "Dockerfile", "FROM many\nCOPY f /f\nRUN rm -r /many/d001 && cat /f > /g\n", "f", "content\n")
	h.do(t, "build", "--network=none", "--tag", "built", dir)
	assert.Equal(t, run("built", "cat /g; find /many -type f | wc -l"), "content\n4900")
	saved := filepath.Join(t.TempDir(), "saved")
	h.do(t, "save", "--output", saved, "built")
	h.do(t, "rm", id)
	h.do(t, "rmi", "built", "committed", "busybox", "debian", "many")
	h.do(t, "system", "prune", "--all", "--force")
	h.do(t, "load", "--input", saved)
	assert.Equal(t, run("built", "cat /g"), "content")
	h.do(t, "rmi", "built")
}

// cutOffTime is for a client whose daemons were killed. A build may never end: a container that ended while dockerd was
// connecting to containerd again is running for it, until somebody kills that.
const cutOffTime = 30 * time.Second

// testDockerKill kills dockerd, containerd and Strata at random moments of a load and a build, and then expects that everything
// works and nothing is damaged.
func testDockerKill(t *testing.T, h *containerdHost) {
	f := fixtures(t)
	d := &host{Machine: h.Machine}
	d.do(t, "load", "--input", f.archive("busybox"))
	want := manifest(t, f.busybox, f.many)
	for i, victims := range [][]string{{"strata"}, {"containerd"}, {"dockerd"}, {"dockerd", "containerd", "strata"}} {
		after := time.Duration(50+rand.IntN(1500)) * time.Millisecond
		t.Logf("kill %v after %v", victims, after)
		ctx, cancel := context.WithTimeout(t.Context(), cutOffTime)
		cmd := d.Docker(ctx, "load", "--input", f.archive("many"))
		if i%2 == 1 {
			cmd = d.Docker(ctx, "build", "--no-cache", "--network=none",
				buildContext(t, "Dockerfile", "FROM busybox\nRUN dd if=/dev/zero of=/f bs=1M count=50\nRUN sync\n"))
		}
		assert.NilError(t, cmd.Start())
		time.Sleep(after)
		for _, v := range victims {
			assert.NilError(t, h.service(v).Kill())
		}
		for _, start := range []struct {
			name string
			do   func(*testing.T)
		}{{"strata", h.startStrata}, {"containerd", h.startContainerd}, {"dockerd", h.startDocker}} {
			for _, v := range victims {
				if v == start.name {
					start.do(t)
				}
			}
		}
		_ = cmd.Wait() // it was cut off, or not
		cancel()
		awaitServices(t, d)
		d.do(t, "load", "--input", f.archive("many"))
		got := d.tree(t, "many")
		assert.Assert(t, cmp.Diff(want, got) == "", "%s", cmp.Diff(want, got))
		assert.Equal(t, d.do(t, "run", "--rm", "--network=none", "busybox", "echo", fmt.Sprint(i)), fmt.Sprint(i))
		h.check(t)
		d.do(t, "rmi", "many")
	}
	d.do(t, "container", "prune", "--force") // what a build ran in when dockerd was killed
	h.endOrphans(t)
	d.do(t, "rmi", "busybox")
	d.pruneDocker(t)
	assert.NilError(t, h.docker.Stop())
	h.docker = nil
}

// endOrphans ends what dockerd and containerd were starting when both were killed, and unmounts its root: no Docker from 27 to 29 does.
func (h *containerdHost) endOrphans(t *testing.T) {
	t.Helper()
	moby := func(args ...string) []string {
		t.Helper()
		return strings.Fields(h.ctr(t, append([]string{"--namespace", "moby"}, args...)...))
	}
	for _, id := range moby("tasks", "ls", "--quiet") {
		moby("tasks", "rm", "--force", id)
	}
	for _, id := range moby("containers", "ls", "--quiet") {
		moby("containers", "rm", id)
	}
	_, _ = h.try(t, "pkill", "-KILL", "runc|containerd-shim") // what containerd does not know of; 1 if there is none
	h.run(t, "sh", "-c", `for d in /var/lib/docker/rootfs/strata/*; do ! mountpoint -q "$d" || umount "$d"; done`)
}

// awaitServices waits until dockerd has found containerd again, and that Strata, for which they take their time.
func awaitServices(t *testing.T, d *host) {
	t.Helper()
	const patience = time.Minute
	for begin := time.Now(); ; time.Sleep(200 * time.Millisecond) {
		id, err := d.try(t, "create", "--network=none", "busybox", "true")
		if err == nil {
			d.do(t, "rm", id)
			return
		}
		assert.Assert(t, strings.Contains(err.Error(), "Unavailable") && time.Since(begin) < patience, "%v", err)
	}
}

func (h *containerdHost) service(name string) *engine.Service {
	return map[string]*engine.Service{"strata": h.strata, "containerd": h.containerd, "dockerd": h.docker}[name]
}
