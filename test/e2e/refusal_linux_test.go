package e2e

import (
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
)

// TestBadSetting gives the plugin settings that cannot work. It can be enabled all the same, and everybody who asks is told what is wrong.
func TestBadSetting(t *testing.T) {
	forReleases(t, func(t *testing.T, s setup) {
		if !s.strata() {
			t.Skip("only Strata is a plugin")
		}
		s.fs = "ext4"
		h := newHost(t, s)
		h.startWith(t, "vfs")
		h.do(t, "plugin", "create", "strata", fixtures(t).plugins[0])
		for _, bad := range []struct{ name, set, unset, reason string }{
			{"unknown-option", "STRATA_OPTIONS=overlay.nope=1", "STRATA_OPTIONS=", "the known ones are backend"},
			{"value", "STRATA_SYNC=never", "STRATA_SYNC=", "allowed are layer, none"},
			{"root", "STRATA_ROOT=/srv/else/strata", "STRATA_ROOT=", "does not lie directly in /var/lib"},
			{"snapshotter", "STRATA_SNAPSHOTTER_SOCKET=/srv/s.sock", "STRATA_SNAPSHOTTER_SOCKET=", "does not lie in /run"},
			{"store", "STRATA_BACKEND=btrfs", "STRATA_BACKEND=", "btrfs"}, // known when it opens
		} {
			t.Run(bad.name, func(t *testing.T) {
				h.do(t, "plugin", "set", "strata", bad.set)
				before := time.Now()
				h.do(t, "plugin", "enable", "strata")
				assert.Assert(t, time.Since(before) < 10*time.Second, "enable took %v", time.Since(before))
				if bad.name != "store" {
					h.saysWhy(t, bad.reason)
					h.logsError(t, bad.reason)
				}
				h.stop(t)
				_, err := h.StartDocker(t.Context(), "--storage-driver=strata")
				assert.ErrorContains(t, err, "Failed to GetDriver graph")
				assert.ErrorContains(t, err, bad.reason)
				h.startWith(t, "vfs")
				h.do(t, "plugin", "disable", "--force", "strata")
				h.do(t, "plugin", "set", "strata", bad.unset)
			})
		}
		h.do(t, "plugin", "enable", "strata")
		h.stop(t)
		h.start(t)
		h.do(t, "load", "--input", fixtures(t).archive("busybox"))
		assert.Equal(t, h.run(t, "busybox", "echo here"), "here")
		h.prune(t)
	})
}

// saysWhy expects the reason of everything that a person asks the plugin.
func (h *host) saysWhy(t *testing.T, reason string) {
	t.Helper()
	for _, command := range []string{"info", "ls", "options", "check"} {
		_, err := h.cli(t, command)
		assert.Assert(t, err != nil && strings.Contains(err.Error(), reason), "%s: %v", command, err)
	}
}

// logsError expects that dockerd has logged what the plugin says as an error, not as information.
func (h *host) logsError(t *testing.T, reason string) {
	t.Helper()
	for line := range strings.Lines(h.docker.Log()) {
		if strings.Contains(line, ` level=error msg="time=`) && strings.Contains(line, reason) {
			return
		}
	}
	t.Errorf("no error in dockerd's log says %q", reason)
}
