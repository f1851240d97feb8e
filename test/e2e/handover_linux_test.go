package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gotest.tools/v3/assert"

	"strata/test/e2e/engine"
)

// handOver runs Strata's command of that name, first without doing anything.
func (h *containerdHost) handOver(t *testing.T, args ...string) {
	t.Helper()
	args = append(h.cli(), append([]string{"handover"}, args...)...)
	run := func(args ...string) string {
		t.Helper()
		out, err := h.try(t, args...)
		assert.NilError(t, err, "%s", out)
		return out
	}
	before := h.layers(t)
	plan := run(args...)
	assert.DeepEqual(t, h.layers(t), before)
	done := run(append(args, "--yes")...)
	assert.Assert(t, !strings.Contains(done, "no "), "%s", done)
	again := run(append(args, "--yes")...)
	assert.Equal(t, again, done)
	assert.Equal(t, strings.Count(plan, "\n"), strings.Count(done, "\n"), "%s\n%s", plan, done)
	h.check(t)
}

// forget lets Strata collect what nobody but a Docker that is gone for good has a name for. The Docker's record still has it.
func (h *containerdHost) forget(t *testing.T, dockerRoot string) {
	t.Helper()
	h.run(t, append(h.cli(), "gc", "--docker-root", dockerRoot, "--docker-gone", "--older-than", "0s", "--yes")...)
	h.check(t)
}

// testHandOver: what was loaded and built with a Docker that takes storage plugins is there for one of version 29.
func testHandOver(t *testing.T, h *containerdHost) {
	f := fixtures(t)
	d := &host{Machine: h.Machine}
	h.startOldDocker(t)
	d.do(t, "load", "--input", f.archive("many"))
	d.do(t, "load", "--input", f.archive("debian"))
	dir := buildContext(t, "Dockerfile", "FROM many\nCOPY f /f\nENV A=b\n", "f", "content\n")
	d.build(t, false, dir, "--tag", "old")
	assert.NilError(t, h.docker.Stop())
	layers := len(h.layers(t))
	h.handOver(t)
	assert.Equal(t, len(h.layers(t)), layers+4, "a link for each layer") // busybox, many, the COPY, debian

	h.startDocker(t)
	for name, layers := range map[string][]*engine.Layer{"debian": {f.debian}, "many": {f.busybox, f.many}} {
		got, want := d.tree(t, name), manifest(t, layers...)
		assert.Assert(t, cmp.Diff(want, got) == "", "%s: %s", name, cmp.Diff(want, got))
	}
	run := func(image, script string) string {
		return d.do(t, "run", "--rm", "--network=none", image, "sh", "-c", script)
	}
	assert.Equal(t, run("old", "echo $A; cat /f; find /many -type f | wc -l"), "b\ncontent\n5000")
	id := d.do(t, "create", "--network=none", "old", "sh", "-c", "echo new >/new; rm /f")
	d.do(t, "start", "--attach", id)
	assert.DeepEqual(t, d.diff(t, id), []string{"A /new", "D /f"})
	d.do(t, "commit", id, "committed")
	d.do(t, "rm", id)
	assert.Equal(t, run("committed", "cat /new; test ! -e /f && echo ok"), "new\nok")

	before := h.layers(t)
	h.handOver(t, "--content")
	assert.DeepEqual(t, h.layers(t), before)
	saved := filepath.Join(t.TempDir(), "saved")
	d.do(t, "save", "--output", saved, "old")
	dir = buildContext(t, "Dockerfile", "FROM old\nRUN cat /f > /g\n")
	d.do(t, "build", "--network=none", "--tag", "built", dir)
	assert.Equal(t, run("built", "cat /g"), "content")
	// What Docker 29 removes, the old one still has, and the other way round.
	d.do(t, "rmi", "built", "committed", "many", "old")
	d.do(t, "system", "prune", "--all", "--force", "--filter", "until=1h")
	h.forget(t, "/var/lib/docker")
	got, want := d.tree(t, "debian"), manifest(t, f.debian)
	assert.Assert(t, cmp.Diff(want, got) == "", "%s", cmp.Diff(want, got))
	d.do(t, "load", "--input", saved)
	assert.Equal(t, run("old", "cat /f"), "content")
	d.do(t, "rmi", "old", "debian")
	h.ctr(t, "--namespace", "moby", "content", "prune", "references")
	h.forget(t, "/var/lib/docker")
	assert.Equal(t, len(h.layers(t)), 0, "%v", h.layers(t))
	assert.NilError(t, h.docker.Stop())
	h.docker = nil
}

// startOldDocker starts Debian's dockerd, with Strata as its storage plugin.
func (h *containerdHost) startOldDocker(t *testing.T) {
	t.Helper()
	const program = "/var/lib/dockerd" // in /usr there is another one
	text, err := os.ReadFile("/usr/sbin/dockerd")
	assert.NilError(t, err)
	assert.NilError(t, os.WriteFile(h.Path(program), text, 0o700))
	assert.NilError(t, os.MkdirAll(h.Path("/etc/docker/plugins"), 0o755))
	assert.NilError(t, os.WriteFile(h.Path("/etc/docker/plugins/strata.spec"), []byte("unix://"+strataSocket), 0o600))
	s, err := h.Serve(t.Context(), "dockerd", "/run/docker.sock", program, "--experimental", "--storage-driver=strata",
		"--containerd="+containerdSocket, "--cgroup-parent="+h.Cgroup(), "--bridge=none", "--iptables=false", "--ip6tables=false")
	assert.NilError(t, err)
	h.docker = s
}
