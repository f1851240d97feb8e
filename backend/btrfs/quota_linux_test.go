package btrfs_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/backendtest"
)

const mib = 1 << 20

// TestUsage measures what a layer brought to the disk, whoever shares it by now.
func TestUsage(t *testing.T) {
	r := newRig(t)
	usage := func(l backend.Layer) backend.Usage {
		t.Helper()
		u, err := as[backend.Meter](t, r.b).Usage(t.Context(), l)
		assert.NilError(t, err)
		return u
	}
	base := r.create(backend.Layer{})
	assert.DeepEqual(t, usage(base), backend.Usage{Inodes: 1})
	r.apply(base, backendtest.CreateFile("big", backendtest.Noise(1, 8*mib), 0o644), backendtest.CreateFile("other", backendtest.Noise(2, 2*mib), 0o644),
		backendtest.Link("big", "again"), backendtest.CreateFile("inline", []byte("tiny"), 0o644), backendtest.SparseFile("sparse", 1<<30, 0, nil))
	assert.DeepEqual(t, usage(base), backend.Usage{Size: 10*mib + 4, Inodes: 5})
	l := r.create(base)
	assert.DeepEqual(t, usage(l), backend.Usage{})
	assert.DeepEqual(t, usage(base), backend.Usage{Size: 10*mib + 4, Inodes: 5})
	r.apply(l, backendtest.Remove("other"), backendtest.Append("big", backendtest.Noise(3, mib)), backendtest.CreateFile("new", backendtest.Noise(4, mib), 0o644))
	assert.DeepEqual(t, usage(l), backend.Usage{Size: 2 * mib, Inodes: 1})
	clone := r.clone(l)
	assert.DeepEqual(t, usage(clone), backend.Usage{Size: 2 * mib, Inodes: 1})
	command(t, "btrfs", "subvolume", "create", r.dir(clone)+"/sub")
	r.apply(clone, backendtest.CreateFile("sub/f", backendtest.Noise(5, 3*mib), 0o644))
	assert.DeepEqual(t, usage(clone), backend.Usage{Size: 5 * mib, Inodes: 3})
}

// TestLimit sets limits with full and with simple quotas, and refuses them without.
func TestLimit(t *testing.T) {
	for _, mode := range []string{"full", "simple"} {
		t.Run(mode, func(t *testing.T) {
			r := newRig(t)
			base := r.create(backend.Layer{})
			r.apply(base, backendtest.CreateFile("below", backendtest.Noise(1, 20*mib), 0o644))
			r.seal(base)
			limited := backend.Layer{ID: "limited", Parents: []backend.Parent{{ID: base.ID}}, Limit: 10 * mib}
			err := r.b.Create(t.Context(), limited)
			assert.Assert(t, errdefs.IsNotImplemented(err), "%v", err)
			assert.ErrorContains(t, err, "btrfs quota enable")
			_, serr := os.Lstat(r.dir(limited))
			assert.Assert(t, os.IsNotExist(serr))
			err = as[backend.Limiter](t, r.b).SetLimit(t.Context(), base, mib)
			assert.Assert(t, errdefs.IsNotImplemented(err), "%v", err)
			assert.Equal(t, quotas(r), "off")

			if mode == "full" {
				command(t, "btrfs", "quota", "enable", r.home)
				command(t, "btrfs", "quota", "rescan", "-w", r.home)
			} else {
				enableSimpleQuota(t, r.home)
			}
			assert.Equal(t, quotas(r), map[string]string{"full": "on", "simple": "simple"}[mode])
			assert.NilError(t, r.b.Create(t.Context(), limited))
			assert.ErrorIs(t, r.fill(limited, 20*mib), unix.EDQUOT)
			assert.NilError(t, as[backend.Limiter](t, r.b).SetLimit(t.Context(), limited, 0))
			assert.NilError(t, r.fill(limited, 20*mib))
			r.remove(limited)
			assert.NilError(t, backendtest.CreateFile("free", backendtest.Noise(2, mib), 0o644)(filepath.Dir(r.home)))
			noStaleQgroups(r)
		})
	}
}

func quotas(r *rig) string {
	r.Helper()
	fields, err := as[backend.Reporter](r, r.b).Report(r.Context())
	assert.NilError(r, err)
	return fields[0].Value
}

// fill writes bytes to a file of the layer, down to the disk.
func (r *rig) fill(l backend.Layer, bytes int) error {
	f, err := os.Create(filepath.Join(r.dir(l), "fill"))
	assert.NilError(r, err)
	_, err = f.Write(backendtest.Noise(9, bytes))
	if serr := f.Sync(); err == nil {
		err = serr
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// enableSimpleQuota does what btrfs quota enable --simple does, which btrfs-progs know from 6.7 on.
func enableSimpleQuota(t *testing.T, dir string) {
	t.Helper()
	const (
		quotaCtl    = 3<<30 | 16<<16 | 0x94<<8 | 40 // BTRFS_IOC_QUOTA_CTL
		simpleQuota = 4                             // BTRFS_QUOTA_CTL_ENABLE_SIMPLE_QUOTA
	)
	f, err := os.Open(dir)
	assert.NilError(t, err)
	defer f.Close()
	args := [2]uint64{simpleQuota}
	if err := quotaIoctl(int(f.Fd()), quotaCtl, &args); err != nil {
		t.Skipf("the kernel has no simple quotas (Linux 6.7): %v", err)
	}
}

// noStaleQgroups waits until the kernel has freed deleted subvolumes, and looks for qgroups without one.
func noStaleQgroups(r *rig) {
	r.Helper()
	var groups string
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		command(r, "btrfs", "filesystem", "sync", r.home)
		groups = command(r, "btrfs", "qgroup", "show", r.home)
		// The top level, and one for each layer that is left.
		left, err := os.ReadDir(r.home)
		assert.NilError(r, err)
		if strings.Count(groups, "0/") == 1+len(left) {
			return
		}
		if time.Now().After(deadline) {
			r.Fatalf("qgroups left behind:\n%s", groups)
		}
	}
}

func quotaIoctl(fd int, number uintptr, args *[2]uint64) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), number, uintptr(unsafe.Pointer(args)))
	if errno != 0 {
		return errno
	}
	return nil
}
