package e2e

import (
	"os"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// TestPluginInUse changes, upgrades and replaces the plugin that dockerd uses, in the words of the documents, under a running container.
func TestPluginInUse(t *testing.T) {
	forReleases(t, func(t *testing.T, s setup) {
		if !s.strata() {
			t.Skip("only Strata is a plugin")
		}
		s.fs = "ext4"
		h := newHost(t, s)
		versions := pushPlugins(t, h, registry(t))
		h.pluginInstall(t, versions[0].ref, "strata")
		h.start(t)
		h.do(t, "load", "--input", fixtures(t).archive("busybox"))
		id := h.detach(t, "busybox", "echo up > /up")
		goesOn := func(t *testing.T) {
			t.Helper()
			assert.Equal(t, h.do(t, "exec", id, "cat", "/up"), "up")
			assert.Assert(t, strings.Contains(h.do(t, "diff", id), "A /up"))
			assert.Equal(t, h.run(t, "busybox", "echo another"), "another")
			h.checkStore(t)
		}
		goesOn(t)
		t.Run("place-option", func(t *testing.T) {
			_, err := h.try(t, "plugin", "disable", "strata")
			assert.ErrorContains(t, err, "in use")
			h.do(t, "plugin", "disable", "--force", "strata")
			h.do(t, "plugin", "set", "strata", "STRATA_SNAPSHOTTER_SOCKET=/run/strata/snapshotter.sock")
			h.do(t, "plugin", "enable", "strata")
			goesOn(t)
			out, err := h.cli(t, "options")
			assert.NilError(t, err)
			assert.Assert(t, strings.Contains(out, "/run/strata/snapshotter.sock"), "%s", out)
		})
		t.Run("upgrade", func(t *testing.T) {
			h.do(t, "plugin", "disable", "--force", "strata")
			h.do(t, "plugin", "upgrade", "--grant-all-permissions", "--skip-remote-check", "strata", versions[1].ref)
			h.do(t, "plugin", "enable", "strata")
			out, err := h.cli(t, "info")
			assert.NilError(t, err)
			assert.Assert(t, strings.Contains(out, versions[1].version), "%s", out)
			goesOn(t)
		})
		t.Run("reinstall", func(t *testing.T) {
			h.do(t, "plugin", "rm", "--force", "strata")
			h.do(t, "plugin", "create", "strata", fixtures(t).plugins[1])
			h.enable(t, "strata")
			_, err := h.try(t, "run", "--rm", "--network=none", "busybox", "true")
			assert.Assert(t, err != nil, "dockerd speaks to the plugin that is gone")
			h.restart(t)
			h.do(t, "start", id)
			goesOn(t)
		})
		t.Run("move", func(t *testing.T) {
			h.do(t, "stop", id)
			h.do(t, "plugin", "disable", "--force", "strata")
			place := h.Dir() + "/ssd"
			out, err := h.Command(t.Context(), "sh", "-c", "mkdir "+place+" && mount -t tmpfs tmpfs "+place+" && cp -a /var/lib/strata "+place).CombinedOutput()
			assert.NilError(t, err, "%s", out)
			h.do(t, "plugin", "set", "strata", "data.source="+place, "STRATA_ROOT="+place+"/strata")
			h.do(t, "plugin", "enable", "strata")
			assert.NilError(t, os.RemoveAll(h.Path("/var/lib/strata")))
			h.restart(t) // which remembers where layers were mounted
			h.do(t, "start", id)
			goesOn(t)
		})
		h.do(t, "rm", "--force", id)
		h.prune(t)
		h.stop(t)
		h.umount(t, h.Dir()+"/ssd")
	})
}
