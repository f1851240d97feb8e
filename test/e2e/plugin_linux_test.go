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

// install makes the driver under test available to dockerd, which is left stopped.
func (h *host) install(t *testing.T) {
	t.Helper()
	if !h.strata() {
		return
	}
	h.startWith(t, "vfs")
	h.do(t, "plugin", "create", "strata", fixtures(t).plugins[0])
	h.enable(t, "strata")
	h.stop(t)
}

// enable gives a plugin the host's settings and enables it. On a host whose /var/lib is a file
// system of its own, the store is where it is by default, else where the disk is.
func (h *host) enable(t *testing.T, plugin string) {
	t.Helper()
	options := append([]string{"STRATA_LOG_LEVEL=debug"}, h.options...)
	if h.fs == "" {
		options = append([]string{"data.source=" + h.Dir(), "STRATA_ROOT=" + h.Dir() + "/store"}, options...)
	}
	h.do(t, append([]string{"plugin", "set", plugin}, options...)...)
	h.do(t, "plugin", "enable", plugin)
}

// release is a plugin reference in a registry and the version of Strata in it.
type pushed struct{ ref, version string }

// pushPlugins pushes two versions of the plugin to the registry.
func pushPlugins(t *testing.T, h *host, r *engine.Registry) (all []pushed) {
	t.Helper()
	h.startWith(t, "vfs")
	defer h.stop(t)
	for i, dir := range fixtures(t).plugins {
		p := pushed{version: []string{"e2e-1", "e2e-2"}[i]}
		p.ref = r.Addr + "/strata:" + p.version
		h.do(t, "plugin", "create", p.ref, dir)
		h.do(t, "plugin", "push", p.ref)
		h.do(t, "plugin", "rm", p.ref)
		all = append(all, p)
	}
	return all
}

// TestPlugin installs the plugin from a registry and does to it what administrators do. None of it
// may cost a layer.
func TestPlugin(t *testing.T) {
	forReleases(t, func(t *testing.T, s setup) {
		if !s.strata() {
			t.Skip("only Strata is a plugin")
		}
		s.fs = "ext4"
		h := newHost(t, s)
		versions := pushPlugins(t, h, registry(t))
		h.pluginInstall(t, versions[0].ref, "strata")
		h.start(t)
		h.do(t, "load", "--input", fixtures(t).archive("many"))
		h.build(t, true, buildContext(t, "Dockerfile", "FROM many\nRUN rm -r /many/d00*; echo built > /built\n"), "--tag", "built")
		container := h.do(t, "create", "--network=none", "--name=kept", "built", "sh", "-c", "echo kept >> /kept; cat /kept")
		h.do(t, "start", "--attach", container)
		want := h.tree(t, "built")
		layers := h.layers(t)
		unchanged := func(t *testing.T, runs int) {
			t.Helper()
			assert.DeepEqual(t, h.layers(t), layers)
			got := h.tree(t, "built")
			assert.Assert(t, cmp.Diff(want, got) == "", "%s", cmp.Diff(want, got))
			assert.Equal(t, h.do(t, "start", "--attach", container), strings.Repeat("kept\n", runs-1)+"kept")
			h.checkStore(t)
		}
		t.Run("remove-and-reinstall", func(t *testing.T) {
			h.withoutDriver(t, func() {
				h.do(t, "plugin", "rm", "--force", "strata")
				h.pluginInstallHere(t, versions[0].ref, "strata")
			})
			unchanged(t, 2)
		})
		t.Run("upgrade", func(t *testing.T) {
			h.withoutDriver(t, func() {
				h.do(t, "plugin", "disable", "strata")
				h.do(t, "plugin", "upgrade", "--grant-all-permissions", "--skip-remote-check", "strata", versions[1].ref)
				h.do(t, "plugin", "enable", "strata")
			})
			out, err := h.cli(t, "info")
			assert.NilError(t, err)
			assert.Assert(t, strings.Contains(out, versions[1].version), "%s", out)
			unchanged(t, 3)
		})
		t.Run("another-alias", func(t *testing.T) { h.anotherAlias(t, versions[0].ref, layers, func() { unchanged(t, 4) }) })
		t.Run("tag-in-the-driver-name", func(t *testing.T) { h.tagInName(t, layers, func() { unchanged(t, 5) }) })
		t.Run("forced-disable", func(t *testing.T) { h.forcedDisable(t, func() { unchanged(t, 6) }) })
		h.do(t, "rm", container)
		h.prune(t)
	})
}

// forcedDisable takes the plugin away from under a running container, and gives it back.
func (h *host) forcedDisable(t *testing.T, back func()) {
	t.Helper()
	id := h.detach(t, "built", "echo up > /up")
	running := func() { assert.Equal(t, h.do(t, "exec", id, "sh", "-c", "cat /built /up"), "built\nup") }
	root := "/proc/" + h.outsidePID(t, id) + "/root"
	h.do(t, "plugin", "disable", "--force", "strata")
	for name, want := range map[string]string{"built": "built\n", "up": "up\n"} { // Docker asks the plugin before any command in a container
		b, err := os.ReadFile(filepath.Join(root, name))
		assert.NilError(t, err)
		assert.Equal(t, string(b), want)
	}
	h.do(t, "plugin", "enable", "strata")
	running()
	assert.Assert(t, strings.Contains(h.do(t, "diff", id), "A /up"))
	h.do(t, "restart", id)
	running()
	h.do(t, "rm", "--force", id)
	back()
}

// pluginInstall installs a plugin while no daemon runs.
func (h *host) pluginInstall(t *testing.T, ref, alias string) {
	t.Helper()
	h.startWith(t, "vfs")
	h.pluginInstallHere(t, ref, alias)
	h.stop(t)
}

func (h *host) pluginInstallHere(t *testing.T, ref, alias string) {
	t.Helper()
	h.do(t, "plugin", "install", "--grant-all-permissions", "--disable", "--alias", alias, ref)
	h.enable(t, alias)
}

// withoutDriver runs do while the daemon uses another driver, for then the plugin can be changed.
func (h *host) withoutDriver(t *testing.T, do func()) {
	t.Helper()
	h.stop(t)
	h.startWith(t, "vfs")
	do()
	h.stop(t)
	h.start(t)
}

// anotherAlias uses the store under another name of the plugin. Docker keeps its images by the name
// of the driver, so it shows none there; the layers must all be there when the first name is back.
func (h *host) anotherAlias(t *testing.T, ref string, layers []string, back func()) {
	t.Helper()
	h.stop(t)
	h.startWith(t, "vfs")
	h.do(t, "plugin", "disable", "strata")
	h.pluginInstallHere(t, ref, "else/where:v9")
	h.stop(t)
	h.startWith(t, "else/where:v9")
	assert.Equal(t, h.do(t, "images", "--quiet"), "")
	assert.DeepEqual(t, h.layers(t), layers)
	h.do(t, "load", "--input", fixtures(t).archive("busybox"))
	assert.Equal(t, h.run(t, "busybox", "echo here"), "here")
	// Not prune: BuildKit's records of its layers are the same for all drivers.
	h.do(t, "rmi", "busybox")
	assert.DeepEqual(t, h.layers(t), layers)
	h.stop(t)
	h.startWith(t, "vfs")
	h.do(t, "plugin", "rm", "--force", "else/where:v9")
	h.do(t, "plugin", "enable", "strata")
	h.stop(t)
	h.start(t)
	back()
}

// tagInName names the same plugin with its tag.
func (h *host) tagInName(t *testing.T, layers []string, back func()) {
	t.Helper()
	h.stop(t)
	h.startWith(t, "strata:latest")
	assert.DeepEqual(t, h.layers(t), layers)
	h.stop(t)
	h.start(t)
	back()
}
