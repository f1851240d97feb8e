package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"strata/test/e2e/engine"
)

// TestNoSizeLimit asks for a limit on a file system without quota, in a plugin.
func TestNoSizeLimit(t *testing.T) {
	h := limitHost(t, "ext4")
	for _, oldKernel := range []bool{false, true} {
		h.startKernel(t, oldKernel)
		_, err := h.try(t, "create", "--storage-opt", "size=16M", "busybox", "true")
		assert.ErrorContains(t, err, "size limits need") // more than that only where the kernel has quota
		h.stop(t)
	}
	h.start(t)
	h.prune(t)
}

// TestSizeLimit keeps containers to a limit, on a kernel that can, by the system call that it has and by the older one.
func TestSizeLimit(t *testing.T) {
	for _, fs := range []string{"ext4-quota", "xfs-quota"} {
		t.Run(fs, func(t *testing.T) {
			needQuota(t, fs)
			h := limitHost(t, fs)
			for _, oldKernel := range []bool{false, true} {
				h.startKernel(t, oldKernel)
				testLimit(t, h)
				h.stop(t)
			}
			h.start(t)
			h.prune(t)
		})
	}
}

// needQuota skips a test on a kernel that says that it cannot mount the file system.
func needQuota(t *testing.T, fs string) {
	t.Helper()
	option := map[string]string{"ext4-quota": "CONFIG_QFMT_V2", "xfs-quota": "CONFIG_XFS_QUOTA"}[fs]
	const config = "/proc/config.gz"
	if _, err := os.Stat(config); err == nil && exec.CommandContext(t.Context(), "zgrep", "--quiet", "^"+option+"=", config).Run() != nil {
		t.Skipf("the kernel is built without %s; scripts/test zfs runs the test on one that has it", option)
	}
}

// limitHost makes a host with the store on this file system, and an image. Limits are nothing that an engine could know: the one that is
// there is enough.
func limitHost(t *testing.T, fs string) *host {
	t.Helper()
	fixtures(t)
	if driverName() != "strata" {
		t.Skip("only Strata is a plugin")
	}
	own, err := engine.Own(t.Context())
	assert.NilError(t, err)
	h := newHost(t, setup{release: own, driver: "strata", fs: fs})
	h.install(t)
	h.start(t)
	h.do(t, "load", "--input", fixtures(t).archive("busybox"))
	h.stop(t)
	return h
}

// oldRunc lets a container find that the kernel has no quotactl_fd(2), as those before 5.14.
const oldRunc = `#!/bin/sh
previous=
for word; do
    if [ "$previous" = --bundle ]; then
        sed -i 's/"linux":{/"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["quotactl_fd"],"action":"SCMP_ACT_ERRNO","errnoRet":38}]},/' "$word/config.json"
    fi
    previous=$word
done
exec runc "$@"
`

// startKernel starts dockerd on the kernel as it is, or as if it were an older one.
func (h *host) startKernel(t *testing.T, old bool) {
	t.Helper()
	h.flags = nil
	if old {
		path := filepath.Join(h.Dir(), "old-runc")
		assert.NilError(t, os.WriteFile(path, []byte(oldRunc), 0o755))
		h.flags = []string{"--add-runtime=old=" + path, "--default-runtime=old"}
	}
	h.start(t)
	if !old {
		return
	}
	out, err := h.Command(t.Context(), "sh", "-c", "for p in $(pidof strata); do grep Seccomp: /proc/$p/status; done").CombinedOutput()
	assert.NilError(t, err, "%s", out)
	assert.Assert(t, strings.Contains(string(out), "2"), "the plugin has no seccomp filter: %s", out)
}
