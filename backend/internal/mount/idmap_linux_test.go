package mount_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/internal/loopfs"
	"strata/backend/internal/mount"
)

func TestIDMap(t *testing.T) {
	m := &backend.IDMap{
		UIDs: []backend.IDRange{{Container: 0, Host: 100000, Size: 1000}},
		GIDs: []backend.IDRange{{Container: 0, Host: 200000, Size: 500}, {Container: 1000, Host: 300000, Size: 1}},
	}
	owner := func(t *testing.T, path string) [2]uint32 {
		var st unix.Stat_t
		assert.NilError(t, unix.Lstat(path, &st))
		return [2]uint32{st.Uid, st.Gid}
	}
	prepare := func(t *testing.T) (d []string) {
		dir := loopfs.New(t, "ext4", loopfs.Small("ext4"), "") // tmpfs has idmapped mounts since 6.3 only
		for _, name := range []string{"mapped", "plain", "target"} {
			in := filepath.Join(dir, name)
			d = append(d, in)
			assert.NilError(t, os.Mkdir(in, 0o755))
			f := filepath.Join(in, name)
			assert.NilError(t, os.WriteFile(f, nil, 0o644))
			assert.NilError(t, os.Chown(f, 7, 1000))
		}
		return d
	}
	t.Run("bind", func(t *testing.T) {
		d := prepare(t)
		mounts := []backend.Mount{{Type: "bind", Source: d[0], Options: []string{mount.IDMapOption(m), "ro"}}}
		assert.NilError(t, mount.Mount(t.Context(), mounts, d[2]))
		assert.Equal(t, owner(t, filepath.Join(d[2], "mapped")), [2]uint32{100007, 300000})
		assert.NilError(t, mount.Unmount(t.Context(), d[2]))
		err := mount.Mounter{Classic: true}.Mount(t.Context(), mounts, d[2])
		assert.Assert(t, errdefs.IsNotImplemented(err), "%v", err)
	})
	overlay := func(t *testing.T, mr mount.Mounter) {
		temps := func() []string {
			list, err := filepath.Glob(filepath.Join(os.TempDir(), "strata-lower-*"))
			assert.NilError(t, err)
			return list
		}
		before := temps()
		d := prepare(t)
		mounts := []backend.Mount{{Type: "overlay", Source: "overlay", Options: []string{
			"lowerdir+=" + d[0], mount.IDMapOption(m), "lowerdir+=" + d[1],
		}}}
		assert.NilError(t, mr.Mount(t.Context(), mounts, d[2]))
		assert.Equal(t, owner(t, filepath.Join(d[2], "mapped")), [2]uint32{100007, 300000})
		assert.Equal(t, owner(t, filepath.Join(d[2], "plain")), [2]uint32{7, 1000}, "only the directory before the option is mapped")
		assert.NilError(t, mount.Unmount(t.Context(), d[2]))
		assert.DeepEqual(t, temps(), before)
	}
	t.Run("descriptors", func(t *testing.T) { overlay(t, mount.Mounter{}) })
	t.Run("classic", func(t *testing.T) { overlay(t, mount.Mounter{Classic: true}) })
}
