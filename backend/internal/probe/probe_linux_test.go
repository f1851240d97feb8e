package probe_test

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/internal/loopfs"
	"strata/backend/internal/mount"
	"strata/backend/internal/probe"
)

// TestFileSystems holds what is found on file systems of which it is known.
func TestFileSystems(t *testing.T) {
	all := []probe.Feature{probe.DType, probe.Whiteout, probe.TrustedXattr, probe.Overlay, probe.OverlayUserXattr, probe.Reflink, probe.ProjectQuota}
	for fs, want := range map[string]map[probe.Feature]bool{
		"ext4":  {probe.Reflink: false, probe.ProjectQuota: false, probe.IDMap: true},
		"xfs":   {probe.Reflink: true, probe.ProjectQuota: false, probe.IDMap: true},
		"btrfs": {probe.Reflink: true, probe.ProjectQuota: false, probe.IDMap: true},
		"tmpfs": {probe.Reflink: false, probe.ProjectQuota: false}, // idmapped mounts since Linux 6.3
	} {
		t.Run(fs, func(t *testing.T) {
			dir := loopfs.New(t, fs, loopfs.Small("xfs"), "")
			before, err := os.ReadDir(dir)
			assert.NilError(t, err)
			p := probe.New(dir)
			for _, f := range append(all, slices.Collect(maps.Keys(want))...) {
				works, listed := want[f]
				if !listed {
					works = true
				}
				err := p.Test(t.Context(), f)
				assert.Equal(t, err == nil, works, "%s: %v", f, err)
				assert.Assert(t, err == nil || errdefs.IsNotImplemented(err), "%v", err)
			}
			after, err := os.ReadDir(dir)
			assert.NilError(t, err)
			assert.Equal(t, len(after), len(before), "a scratch directory is left")
		})
	}
}

func TestOverlayOption(t *testing.T) {
	p := probe.New(loopfs.New(t, "tmpfs", 16<<20, ""))
	assert.NilError(t, p.Test(t.Context(), probe.OverlayOption("redirect_dir=off")))
	err := p.Test(t.Context(), probe.OverlayOption("no_such_option=off"))
	assert.Assert(t, errdefs.IsNotImplemented(err), "%v", err)
	err = p.Test(t.Context(), probe.OverlayOption("no_such_flag"))
	assert.Assert(t, errdefs.IsNotImplemented(err), "%v", err)
}

// TestOnOverlay holds that a directory on an overlay mount is refused for good.
func TestOnOverlay(t *testing.T) {
	dir := loopfs.New(t, "tmpfs", 16<<20, "")
	for _, d := range []string{"l", "u", "w", "m"} {
		assert.NilError(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	m := filepath.Join(dir, "m")
	options := []string{"lowerdir+=" + dir + "/l", "upperdir=" + dir + "/u", "workdir=" + dir + "/w"}
	assert.NilError(t, mount.Mount(t.Context(), []backend.Mount{{Type: "overlay", Source: "overlay", Options: options}}, m))
	defer func() { assert.NilError(t, mount.Unmount(context.Background(), m)) }()
	err := probe.New(m).Test(t.Context(), probe.Overlay)
	assert.Assert(t, errdefs.IsNotImplemented(err), "%v", err)
}

// TestInconclusive holds that what could not be tried is tried again.
func TestInconclusive(t *testing.T) {
	dir := loopfs.New(t, "tmpfs", 16<<20, "")
	assert.NilError(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
	p := probe.New(dir)
	err := p.Test(t.Context(), probe.Whiteout)
	assert.ErrorIs(t, err, unix.EROFS)
	assert.Assert(t, !errdefs.IsNotImplemented(err))
	assert.NilError(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND, ""))
	assert.NilError(t, p.Test(t.Context(), probe.Whiteout))
	assert.ErrorContains(t, p.Test(t.Context(), "levitation"), "no such feature")
}

// TestRemembered holds that a conclusive answer costs nothing the second time.
func TestRemembered(t *testing.T) {
	dir := loopfs.New(t, "tmpfs", 16<<20, "")
	p := probe.New(dir)
	assert.NilError(t, p.Test(t.Context(), probe.Whiteout))
	assert.Assert(t, errdefs.IsNotImplemented(p.Test(t.Context(), probe.Reflink)))
	assert.NilError(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
	assert.NilError(t, p.Test(t.Context(), probe.Whiteout))
	assert.Assert(t, errdefs.IsNotImplemented(p.Test(t.Context(), probe.Reflink)))
}

// TestSweep holds that what a killed process left is removed, and never what was mounted in it.
func TestSweep(t *testing.T) {
	dir := loopfs.New(t, "tmpfs", 16<<20, "")
	left, precious := filepath.Join(dir, ".probe-123"), filepath.Join(dir, "precious")
	for _, d := range []string{left, precious} {
		assert.NilError(t, os.Mkdir(d, 0o755))
	}
	assert.Assert(t, probe.Scratch(".probe-123"))
	assert.NilError(t, os.WriteFile(filepath.Join(precious, "file"), nil, 0o644))
	assert.NilError(t, mount.Bind(t.Context(), precious, left, true))
	assert.NilError(t, probe.New(dir).Sweep(t.Context()))
	_, err := os.Stat(left)
	assert.ErrorIs(t, err, os.ErrNotExist)
	_, err = os.Stat(filepath.Join(precious, "file"))
	assert.NilError(t, err)
}
