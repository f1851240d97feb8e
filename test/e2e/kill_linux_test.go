package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/test/e2e/engine"
)

// victim is what a test kills with SIGKILL.
type victim string

const (
	killDocker victim = "dockerd"
	killPlugin victim = "plugin"
	killBoth   victim = "both"
)

// An act is long work that something is killed in the middle of.
type act struct {
	name  string
	start func(ctx context.Context, t *testing.T, h *host) *exec.Cmd
	after time.Duration // how far in, for a load since its layer is being applied; the whole takes longer
}

func acts() []act {
	load := func(ctx context.Context, t *testing.T, h *host) *exec.Cmd {
		return h.Docker(ctx, "load", "--input", fixtures(t).archive("debian"))
	}
	build := func(buildkit bool) func(ctx context.Context, t *testing.T, h *host) *exec.Cmd {
		return func(ctx context.Context, t *testing.T, h *host) *exec.Cmd {
			return h.buildCommand(ctx, buildkit, killedBuild(t), "--no-cache", "--tag", "killed")
		}
	}
	return []act{
		{"load", load, 300 * time.Millisecond},
		{"build-classic", build(false), 1500 * time.Millisecond},
		{"build-buildkit", build(true), 700 * time.Millisecond},
	}
}

// killedBuild is the context of a build of several steps that each take a moment.
func killedBuild(t *testing.T) string {
	t.Helper()
	lines := []string{"FROM many"}
	for i := range 6 {
		lines = append(lines,
			fmt.Sprintf("RUN cp -r /many/d00%d /copy%d && rm -r /many/d00%d && sleep 0.1", i, i, i),
			fmt.Sprintf("COPY f /many/d01%d/f", i))
	}
	return buildContext(t, "Dockerfile", strings.Join(lines, "\n")+"\n", "f", "copied")
}

// TestKill kills the daemon, the plugin and both, in the middle of each act, and then expects that
// nothing is lost and everything works.
func TestKill(t *testing.T) {
	forReleases(t, func(t *testing.T, s setup) {
		s.fs = "ext4" // the store on the same file system as Docker's data root, as on most hosts
		h := newHost(t, s)
		h.install(t)
		h.start(t)
		f := fixtures(t)
		h.do(t, "load", "--input", f.archive("many"))
		w := &witness{id: h.detach(t, "many", "echo 0 >> /log"), tree: manifest(t, f.busybox, f.many)}
		victims := []victim{killDocker}
		if h.strata() {
			victims = []victim{killDocker, killPlugin, killBoth}
		}
		for _, v := range victims {
			for _, a := range acts() {
				t.Run(string(v)+"-in-"+a.name, func(t *testing.T) { h.killDuring(t, v, a, w) })
			}
		}
		h.do(t, "rm", "--force", w.id)
		h.pruneAfterKill(t)
	})
}

// witness is a container and an image that outlive all kills.
type witness struct {
	id    string
	tree  engine.Manifest // of the image "many"
	lines int             // written to the container's log since its start
}

func (h *host) killDuring(t *testing.T, v victim, a act, w *witness) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandTime)
	defer cancel()
	wait := h.background(t, a.start(ctx, t, h))
	if a.name == "load" {
		h.awaitApply(t)
	}
	time.Sleep(a.after)
	h.kill(t, v)
	err := wait()
	assert.NilError(t, ctx.Err(), "the command hung")
	t.Logf("%s ended with: %v", a.name, err)
	h.revive(t, v)
	// What was there before is there unchanged.
	got := h.tree(t, "many")
	assert.Assert(t, cmp.Diff(w.tree, got) == "", "%s", cmp.Diff(w.tree, got))
	h.do(t, "start", w.id)
	w.lines++
	log := h.do(t, "exec", w.id, "sh", "-c", fmt.Sprintf("echo %d >> /log; find /many -type f | wc -l; grep -vc ^0 /log", w.lines))
	assert.Equal(t, log, fmt.Sprintf("5000\n%d", w.lines))
	h.checkStore(t)
	// And what was interrupted works when it is done again.
	out, err := a.start(ctx, t, h).CombinedOutput()
	assert.NilError(t, err, "%s", out)
	if a.name == "load" {
		want, got := manifest(t, fixtures(t).debian), h.tree(t, "debian")
		assert.Assert(t, cmp.Diff(want, got) == "", "%s", cmp.Diff(want, got))
		h.do(t, "rmi", "debian")
	} else {
		assert.Equal(t, h.run(t, "killed", "find /copy? -type f | wc -l; find /many -name f | wc -l; find /many -type f | wc -l"), "600\n6\n4406")
	}
	h.checkStore(t)
}

// awaitApply waits until a layer is being unpacked, if the driver can tell.
func (h *host) awaitApply(t *testing.T) {
	t.Helper()
	for range 200 {
		if !h.strata() {
			time.Sleep(700 * time.Millisecond)
			return
		}
		out, err := h.cli(t, "ls", "--json")
		assert.NilError(t, err)
		if strings.Contains(out, `"applying"`) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Log("no layer was seen being applied")
}

// kill kills the victim, and the daemon first if it is both.
func (h *host) kill(t *testing.T, v victim) {
	t.Helper()
	if v != killPlugin {
		assert.NilError(t, h.docker.Kill())
		h.docker, h.killed = nil, true
	}
	if v != killDocker {
		procs, err := h.Find("strata")
		assert.NilError(t, err)
		assert.Assert(t, len(procs) > 0, "no plugin to kill")
		for _, p := range procs {
			assert.NilError(t, p.Signal(unix.SIGKILL))
		}
	}
}

// revive brings back what was killed: dockerd by hand, as a service manager would; the plugin is
// the daemon's to restart.
func (h *host) revive(t *testing.T, v victim) {
	t.Helper()
	if v != killPlugin {
		h.start(t)
		return
	}
	var err error
	for range 100 {
		if _, err = h.cli(t, "info"); err == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	assert.NilError(t, err, "plugin does not come back")
}
