package e2e

import (
	"context"
	"fmt"
	"math/bits"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/test/e2e/engine"
)

// systemdHost is a machine whose systemd runs Strata, with the units that users get, and Debian's units of containerd and Docker.
type systemdHost struct {
	*containerdHost
	units string // the directory of Strata's
}

func newSystemdHost(t *testing.T, s containerdSetup) *systemdHost {
	t.Helper()
	root, err := engine.SourceRoot()
	assert.NilError(t, err)
	m, err := engine.Boot(context.WithoutCancel(t.Context()), engine.Config{Usr: s.usr, Systemd: true})
	assert.NilError(t, err)
	h := &systemdHost{
		containerdHost: &containerdHost{Machine: m, program: "/usr/local/bin/strata", backend: s.backend, differ: s.differ, new: s.new},
		units:          filepath.Join(root, "scripts"),
	}
	t.Cleanup(func() {
		if t.Failed() {
			script := "systemctl --failed; journalctl --output=short-precise | grep -v level=info"
			out, err := h.Command(context.WithoutCancel(t.Context()), "sh", "-c", script).CombinedOutput()
			t.Logf("%v\n%s", err, out)
		}
		assert.Check(t, m.Close())
	})
	return h
}

// TestSystemd boots systemd, and under it runs Strata for containerd and for Docker.
func TestSystemd(t *testing.T) {
	fixtures(t)
	h := newSystemdHost(t, containerdSetup{backend: "overlay"})
	testSystemd(t, h, step{"docker", h.testDocker}, step{"boot", func(t *testing.T) { h.testBoot(t, "containerd", "docker") }})
}

// TestSystemdContainerd2 does so for a containerd of version 2, and Strata unpacks what is in images.
func TestSystemdContainerd2(t *testing.T) {
	h := newSystemdHost(t, containerdSetup{usr: builtUsr(t, engine.Docker29()), backend: "overlay", new: true, differ: true})
	// Debian's unit, for a program that is elsewhere.
	h.write(t, "/etc/systemd/system/containerd.service.d/built.conf", "[Service]\nExecStart=\nExecStart=/usr/sbin/containerd\n")
	testSystemd(t, h, step{"boot", func(t *testing.T) { h.testBoot(t, "containerd") }})
}

// step is a part of a test that goes on where the one before has ended.
type step struct {
	name string
	do   func(*testing.T)
}

func testSystemd(t *testing.T, h *systemdHost, more ...step) {
	for _, s := range append([]step{
		{"install", h.testInstall},
		{"first-request", h.testFirstRequest},
		{"run", h.testRun},
		{"restart", h.testRestart},
		{"kill", h.testKill},
		{"stop", h.testStop},
	}, more...) {
		if !t.Run(s.name, s.do) {
			t.FailNow() // the next would fail, too, and tell nothing
		}
	}
}

// testInstall installs Strata as its unit says, and looks at what runs then.
func (h *systemdHost) testInstall(t *testing.T) {
	const dir = "/run/install"
	h.run(t, "mkdir", dir)
	h.run(t, "cp", fixtures(t).strata(), filepath.Join(h.units, "strata.service"), filepath.Join(h.units, "strata.socket"), dir)
	commands := h.line(t, "# Install: ")
	t.Log(commands)
	h.run(t, "sh", "-euc", "cd "+dir+"; "+commands)
	for _, unit := range []string{"strata.service", "strata.socket"} {
		assert.Equal(t, h.show(t, unit, "ActiveState"), "active", unit)
		assert.Equal(t, h.show(t, unit, "UnitFileState"), "enabled", unit)
	}
	for _, socket := range []string{snapshotterSocket, "/run/docker/plugins/strata.sock"} {
		assert.Equal(t, h.run(t, "stat", "--format=%F %a", socket), "socket 600", socket)
	}
	// What follows is of no worth unless Strata is as confined as its unit says.
	status := h.run(t, "cat", "/proc/"+h.show(t, "strata", "MainPID")+"/status")
	for line := range strings.Lines(status) {
		switch f := strings.Fields(line); f[0] {
		case "CapBnd:", "CapEff:":
			set, err := strconv.ParseUint(f[1], 16, 64)
			assert.NilError(t, err)
			assert.Equal(t, bits.OnesCount64(set), len(strings.Fields(h.line(t, "CapabilityBoundingSet="))), line)
		case "NoNewPrivs:":
			assert.Equal(t, f[1], "1", line)
		case "Seccomp:":
			assert.Equal(t, f[1], "2", line) // by which systemd restricts address families
		}
	}
}

// testFirstRequest: where systemd only listens for Strata, containerd starts it.
func (h *systemdHost) testFirstRequest(t *testing.T) {
	h.write(t, "/etc/containerd/config.toml", h.config())
	h.systemctl(t, "stop", "strata.socket", "strata")
	h.systemctl(t, "start", "strata.socket")
	assert.Equal(t, h.show(t, "strata", "ActiveState"), "inactive")
	h.systemctl(t, "enable", "--now", "containerd") // of version 1, it connects at once
	h.ask(t)
	assert.Equal(t, h.show(t, "strata", "ActiveState"), "active")
}

// testRun imports images and starts a container that outlives what follows.
func (h *systemdHost) testRun(t *testing.T) {
	f := fixtures(t)
	for name, layers := range map[string][]*engine.Layer{"busybox": {f.busybox}, "debian": {f.debian}} {
		h.load(t, name)
		got, want := h.tree(t, dockerIO+name+":latest"), manifest(t, layers...)
		assert.Assert(t, cmp.Diff(want, got) == "", "%s: %s", name, cmp.Diff(want, got))
	}
	h.startContainer(t)
	h.writeInContainer(t, h.pid(t))
	h.check(t)
}

func (h *systemdHost) testRestart(t *testing.T) {
	before, container := h.show(t, "strata", "MainPID"), h.pid(t)
	h.systemctl(t, "restart", "strata")
	assert.Assert(t, h.show(t, "strata", "MainPID") != before)
	h.ask(t)
	h.writeInContainer(t, container)
	h.check(t)
}

// testKill kills Strata more often than systemd would start a service again that it gives up in the end (DefaultStartLimitBurst is five). Requests
// wait at the socket, which is there all the time.
func (h *systemdHost) testKill(t *testing.T) {
	stop, refused := make(chan struct{}), make(chan error)
	go func() {
		refused <- h.knock(t.Context(), stop)
	}()
	container := h.pid(t)
	for i := range 7 {
		procs, err := h.Find("strata")
		assert.NilError(t, err)
		assert.Equal(t, len(procs), 1, "%v", procs)
		assert.Equal(t, h.show(t, "strata", "MainPID"), strconv.Itoa(procs[0].PID))
		begin := time.Now()
		assert.NilError(t, procs[0].Signal(unix.SIGKILL))
		for range 100 {
			if left, err := h.Find("strata"); err == nil && (len(left) == 0 || left[0].PID != procs[0].PID) {
				break
			}
			time.Sleep(time.Millisecond)
		}
		h.ask(t)
		t.Logf("an answer %v after the kill", time.Since(begin))
		assert.Equal(t, h.show(t, "strata", "NRestarts"), strconv.Itoa(i+1))
		h.writeInContainer(t, container)
	}
	close(stop)
	assert.NilError(t, <-refused)
	h.load(t, "many")
	h.check(t)
}

// knock connects to Strata's socket over and over, and returns the first error.
func (h *systemdHost) knock(ctx context.Context, stop <-chan struct{}) error {
	for i := 0; ; i++ {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", h.Path(snapshotterSocket))
		if err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
		if err := conn.Close(); err != nil {
			return err
		}
		select {
		case <-stop:
			return nil
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// testStop stops Strata for good, which its socket has to be told, too, and starts it again.
func (h *systemdHost) testStop(t *testing.T) {
	begin := time.Now()
	h.systemctl(t, "stop", "strata.socket", "strata")
	t.Logf("it took %v", time.Since(begin))
	h.writeInContainer(t, h.pid(t))
	_, err := h.try(t, "ctr", "snapshots", "--snapshotter", "strata", "prepare", "asked")
	assert.Assert(t, err != nil, "there is an answer though nobody runs")
	for property, want := range map[string]string{"ActiveState": "inactive", "Result": "success", "ExecMainCode": "1", "ExecMainStatus": "0"} {
		assert.Equal(t, h.show(t, "strata", property), want, property)
	}
	h.systemctl(t, "start", "strata.socket", "strata")
	h.writeInContainer(t, h.pid(t))
	h.check(t)
}

// testDocker: Docker has Strata as its storage driver, and Strata mounts for its containers.
func (h *systemdHost) testDocker(t *testing.T) {
	f := fixtures(t)
	h.write(t, "/etc/docker/daemon.json", `{"experimental": true, "storage-driver": "strata", "bridge": "none", "iptables": false,
		"ip6tables": false, "ip-forward": false, "exec-opts": ["native.cgroupdriver=cgroupfs"], "cgroup-parent": "`+h.Cgroup()+`"}`)
	h.systemctl(t, "enable", "--now", "docker")
	docker := h.show(t, "docker", "MainPID")
	d := &host{Machine: h.Machine}
	d.do(t, "load", "--input", f.archive("debian"))
	got, want := d.tree(t, "debian"), manifest(t, f.debian)
	assert.Assert(t, cmp.Diff(want, got) == "", "%s", cmp.Diff(want, got))
	id := d.detach(t, "debian", "true")
	pid := d.do(t, "inspect", "--format={{.State.Pid}}", id)
	for _, act := range [][]string{
		{"restart", "strata"}, {"kill", "--signal=KILL", "strata"}, {"stop", "strata.socket", "strata"}, {"start", "strata.socket", "strata"},
	} {
		h.systemctl(t, act...)
		assert.Equal(t, h.show(t, "docker", "MainPID"), docker, "Docker ended with %q", act)
		h.writeInContainer(t, pid)
	}
	assert.Equal(t, d.run(t, "debian", "echo new >/new; cat /new"), "new")
	d.do(t, "rm", "--force", id)
	d.do(t, "rmi", "debian")
	h.check(t)
}

// testBoot: Strata is there before anybody asks, and so are its layers. All is removed in the end.
func (h *systemdHost) testBoot(t *testing.T, clients ...string) {
	h.removeContainer(t)
	assert.NilError(t, h.Reboot(context.WithoutCancel(t.Context())))
	assert.Equal(t, h.systemctl(t, "is-system-running"), "running")
	ready := h.moment(t, "strata", "ActiveEnterTimestampMonotonic")
	assert.Assert(t, h.moment(t, "strata.socket", "ActiveEnterTimestampMonotonic") <= h.moment(t, "strata", "ExecMainStartTimestampMonotonic"))
	for _, client := range clients {
		begin := h.moment(t, client, "ExecMainStartTimestampMonotonic")
		t.Logf("%s begins %v after Strata is ready", client, begin-ready)
		assert.Assert(t, ready > 0 && ready <= begin, "%s begins %v before Strata is ready", client, ready-begin)
	}
	h.startContainer(t)
	h.writeInContainer(t, h.pid(t))
	h.removeContainer(t)
	h.clear(t)
	h.systemctl(t, append([]string{"stop", "strata.socket", "strata", "docker.socket"}, clients...)...)
	left, err := h.Left()
	assert.NilError(t, err)
	assert.Equal(t, len(left), 0, "%q", left)
}

// startContainer starts one that does nothing. It has no share of processors: the host may have that controller in a tree
// of cgroups that is not the machine's.
func (h *systemdHost) startContainer(t *testing.T) {
	t.Helper()
	h.ctr(t, "run", "--detach", "--snapshotter", "strata", "--cpu-shares", "0", "--cgroup", h.Cgroup()+"/one",
		dockerIO+"busybox:latest", "one", "sh", "-c", "while :; do sleep 1000; done")
}

func (h *systemdHost) removeContainer(t *testing.T) {
	t.Helper()
	h.ctr(t, "tasks", "rm", "--force", "one")
	h.ctr(t, "containers", "rm", "one")
}

// pid returns the first process of the container, which is an error if it does not run.
func (h *systemdHost) pid(t *testing.T) string {
	t.Helper()
	for line := range strings.Lines(h.ctr(t, "task", "ls")) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "one" && f[2] == "RUNNING" {
			return f[1]
		}
	}
	t.Fatal("the container does not run")
	return ""
}

// writeInContainer writes where the process lives, and reads what its image has.
func (h *systemdHost) writeInContainer(t *testing.T, pid string) {
	t.Helper()
	out := h.run(t, "sh", "-euc", `cd "/proc/$0/root"; date >>new; grep -q "^overlay / " "/proc/$0/mounts"; head -n 1 etc/passwd`, pid)
	assert.Assert(t, strings.HasPrefix(out, "root:x:0:0:root:/root:"), out)
}

// ask has containerd ask Strata for something. A call fails on a connection of which containerd has not seen yet that it is broken, and where
// Strata takes more than a second to start, for which containerd waits.
func (h *systemdHost) ask(t *testing.T) {
	t.Helper()
	var err error
	for range 100 {
		_, err = h.try(t, "ctr", "snapshots", "--snapshotter", "strata", "prepare", "asked")
		if err == nil || !strings.HasSuffix(err.Error(), ": unavailable") {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	assert.NilError(t, err)
	h.ctr(t, "snapshots", "--snapshotter", "strata", "rm", "asked")
}

func (h *systemdHost) systemctl(t *testing.T, args ...string) string {
	t.Helper()
	return h.run(t, append([]string{"systemctl"}, args...)...)
}

// show returns a property of a unit.
func (h *systemdHost) show(t *testing.T, unit, property string) string {
	t.Helper()
	return h.systemctl(t, "show", "--value", "--property="+property, unit)
}

// moment returns a property that is a time, since the kernel's start.
func (h *systemdHost) moment(t *testing.T, unit, property string) time.Duration {
	t.Helper()
	n, err := strconv.ParseInt(h.show(t, unit, property), 10, 64)
	assert.NilError(t, err)
	return time.Duration(n) * time.Microsecond
}

// line returns what follows the prefix in Strata's unit.
func (h *systemdHost) line(t *testing.T, prefix string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(h.units, "strata.service"))
	assert.NilError(t, err)
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, prefix); ok {
			return strings.TrimSpace(rest)
		}
	}
	t.Fatalf("the unit has no line %q", prefix)
	return ""
}

// write writes a file of the machine.
func (h *systemdHost) write(t *testing.T, path, text string) {
	t.Helper()
	h.run(t, "mkdir", "-p", filepath.Dir(path))
	assert.NilError(t, os.WriteFile(h.Path(path), []byte(text), 0o644))
}
