package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"strata/test/e2e/engine"
)

// commandTime bounds every single command. The longest takes some ten seconds on a loaded machine;
// a driver that hangs is to be found soon.
const commandTime = 2 * time.Minute

// host is a machine with a dockerd that uses the driver under test.
type host struct {
	*engine.Machine
	setup
	docker *engine.Daemon
	flags  []string // more arguments for dockerd
	served func()   // waits for the end of what serve started
	killed bool     // dockerd was killed at least once
	// anew says that the plugin outlives a dockerd that stops, without the mount that it needs, and starts anew when the next one is there.
	anew bool
	last int // the plugin's process when dockerd stopped, if anew
	// dockerRoot is where dockerd keeps its own records.
	dockerRoot string
}

// setup is what a host is to be.
type setup struct {
	release engine.Release
	driver  string   // dockerd's --storage-driver
	options []string // NAME=VALUE settings of the plugin
	fs      string
	subIDs  bool
	// containerd is added to its configuration.
	containerd string
}

func (s setup) strata() bool { return s.driver == "strata" }

// firstSubID is what root in a container is outside it where setup.subIDs is set.
const firstSubID = 100000

// driverName is the storage driver under test.
func driverName() string {
	if d := os.Getenv("STRATA_E2E_DRIVER"); d != "" {
		return d
	}
	return "strata"
}

// newHost boots a machine and leaves it to the test's end to see that nothing stays behind in it.
func newHost(t *testing.T, s setup) *host {
	t.Helper()
	usr, err := s.release.Usr(t.Context(), fixtures(t).cache)
	assert.NilError(t, err)
	m, err := engine.Boot(context.WithoutCancel(t.Context()), engine.Config{Usr: usr, FS: s.fs, SubIDs: s.subIDs, Containerd: s.containerd})
	assert.NilError(t, err)
	h := &host{Machine: m, setup: s, dockerRoot: "/var/lib/docker"}
	t.Cleanup(func() {
		if t.Failed() && h.docker != nil {
			t.Logf("log of dockerd and plugin:\n%s", h.docker.Log())
		}
		if h.docker != nil {
			assert.Check(t, h.docker.Stop())
			left, err := m.Left()
			assert.Check(t, err)
			left = slices.DeleteFunc(left, h.dockersOwn)
			assert.Check(t, len(left) == 0, "left after dockerd ended:\n%s", strings.Join(left, "\n"))
		}
		assert.Check(t, m.Close())
	})
	return h
}

// dockersOwn tells whether it is Docker's doing that something is left. A killed dockerd forgets the
// processes of build containers and what BuildKit had mounted, with its built-in drivers as well. One
// with --live-restore leaves its plugins running.
func (h *host) dockersOwn(left string) bool {
	switch {
	case strings.HasSuffix(left, " serve --graphdriver-socket /run/docker/plugins/strata.sock"):
		return slices.Contains(h.flags, "--live-restore")
	case strings.Contains(left, "-namespace plugins.moby"):
		return slices.Contains(h.flags, "--live-restore")
	case strings.Contains(left, "containerd-shim"), strings.Contains(left, ": runc init"):
		return h.killed
	}
	_, place, _ := strings.Cut(left, " mounts at "+h.dockerRoot)
	return h.killed && (strings.HasPrefix(place, "/buildkit/") || strings.HasPrefix(place, "/tmp") && strings.Contains(place, "/buildkit-mount"))
}

// start starts dockerd with the driver under test.
func (h *host) start(t *testing.T) {
	t.Helper()
	h.startWith(t, h.driver)
}

func (h *host) startWith(t *testing.T, driver string) {
	t.Helper()
	d, err := h.StartDocker(t.Context(), append([]string{"--storage-driver=" + driver}, h.flags...)...)
	assert.NilError(t, err)
	h.docker = d
	assert.Equal(t, h.do(t, "info", "--format={{.Driver}}"), driver)
	if h.last != 0 {
		h.awaitPlugin(t, h.last)
		h.last = 0
	}
}

func (h *host) stop(t *testing.T) {
	t.Helper()
	if h.anew {
		h.last = h.pluginPID(t)
	}
	assert.NilError(t, h.docker.Stop())
	h.docker = nil
}

func (h *host) restart(t *testing.T) {
	t.Helper()
	h.stop(t)
	h.start(t)
}

// do runs a docker command, which must succeed, and returns its output.
func (h *host) do(t *testing.T, args ...string) string {
	t.Helper()
	out, err := h.try(t, args...)
	assert.NilError(t, err)
	return out
}

// try runs a docker command and returns its output.
func (h *host) try(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandTime)
	defer cancel()
	out, err := engine.Output(h.Docker(ctx, args...))
	if ctx.Err() != nil {
		err = fmt.Errorf("docker %q hung: %w", args, err)
	}
	return out, err
}

// background starts a docker command and returns the function that waits for its end.
func (h *host) background(t *testing.T, cmd *exec.Cmd) func() error {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	assert.NilError(t, cmd.Start())
	return func() error {
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out.Bytes()))
		}
		return nil
	}
}

// run runs a shell script in a new container of the image, which is removed afterwards.
func (h *host) run(t *testing.T, image, script string) string {
	t.Helper()
	return h.do(t, "run", "--rm", "--network=none", image, "sh", "-c", script)
}

// detach starts a container that runs the script and then sleeps, and returns when it sleeps.
func (h *host) detach(t *testing.T, image, script string) string {
	t.Helper()
	// A shell as process 1 ignores SIGTERM, and ten seconds of patience with it tell nothing.
	id := h.do(t, "run", "--detach", "--network=none", "--stop-signal=KILL", image,
		"sh", "-c", script+"; touch /tmp/ready; while :; do sleep 600; done")
	h.do(t, "exec", id, "sh", "-c", "while ! test -e /tmp/ready; do sleep 0.05; done")
	return id
}

// listImages lists the IDs and names of all images.
func (h *host) listImages(t *testing.T) []string {
	t.Helper()
	return sorted(strings.Split(h.do(t, "images", "--no-trunc", "--format={{.ID}} {{.Repository}}:{{.Tag}}"), "\n"))
}

// build builds a Dockerfile with the classic builder or BuildKit and returns the image's ID.
func (h *host) build(t *testing.T, buildkit bool, dir string, args ...string) string {
	t.Helper()
	out, err := h.tryBuild(t, buildkit, dir, args...)
	assert.NilError(t, err)
	return out
}

func (h *host) tryBuild(t *testing.T, buildkit bool, dir string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandTime)
	defer cancel()
	return engine.Output(h.buildCommand(ctx, buildkit, dir, args...))
}

func (h *host) buildCommand(ctx context.Context, buildkit bool, dir string, args ...string) *exec.Cmd {
	cmd := h.Docker(ctx, append([]string{"build", "--network=none", "--quiet", dir}, args...)...)
	if buildkit {
		cmd.Env = append(cmd.Env, "DOCKER_BUILDKIT=1")
	}
	return cmd
}

// context makes a directory for docker build. Each pair is a name and a content.
func buildContext(t *testing.T, pairs ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(pairs); i += 2 {
		path := filepath.Join(dir, pairs[i])
		assert.NilError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		assert.NilError(t, os.WriteFile(path, []byte(pairs[i+1]), 0o644))
	}
	return dir
}

// tree returns what a container of the image would see, as a manifest.
func (h *host) tree(t *testing.T, image string) engine.Manifest {
	t.Helper()
	id := h.do(t, "create", "--network=none", image, "true")
	defer h.do(t, "rm", id)
	return h.containerTree(t, id)
}

// containerTree returns what the container sees. It copies the root out rather than exporting it,
// since dockerd 26.1 never lets go of the layers of a container that was exported once.
func (h *host) containerTree(t *testing.T, id string) engine.Manifest {
	t.Helper()
	m := h.manifestOf(t, "cp", "--archive", id+":/", "-")
	if h.subIDs {
		return m.Shift(firstSubID) // docker cp shows owners as they are outside the container
	}
	return m
}

// manifestOf describes the tar that a docker command writes.
func (h *host) manifestOf(t *testing.T, args ...string) engine.Manifest {
	t.Helper()
	cmd := h.Docker(t.Context(), args...)
	out, err := cmd.StdoutPipe()
	assert.NilError(t, err)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	assert.NilError(t, cmd.Start())
	m, err := engine.ReadManifest(out)
	assert.NilError(t, errors.Join(err, cmd.Wait()), "%s", stderr.String())
	return m.Without()
}

// imageID returns the full ID of an image, "" if there is none.
func (h *host) imageID(t *testing.T, image string) string {
	t.Helper()
	out, err := h.try(t, "image", "inspect", "--format={{.Id}}", image)
	if err != nil {
		return ""
	}
	return out
}
