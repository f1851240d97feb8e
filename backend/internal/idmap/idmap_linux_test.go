package idmap

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/internal/dirfd"
)

func single(host uint32) *backend.IDMap {
	r := []backend.IDRange{{Container: 0, Host: host, Size: 65536}}
	return &backend.IDMap{UIDs: r, GIDs: r}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: changes owners")
	}
}

// scratch returns a directory on a tmpfs: the temporary directory may be on a file system that has no
// devices 0:0, such as an overlay.
func scratch(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	assert.NilError(t, unix.Mount("scratch", dir, "tmpfs", 0, "mode=0755"))
	t.Cleanup(func() { assert.Check(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}

func stat(t *testing.T, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	assert.NilError(t, unix.Lstat(path, &st))
	return st
}

func owner(t *testing.T, path string) string {
	t.Helper()
	st := stat(t, path)
	return fmt.Sprintf("%d:%d", st.Uid, st.Gid)
}

func capability3(root uint32) []byte {
	v := make([]byte, capSize3)
	binary.LittleEndian.PutUint32(v, capRevision3|1) // and effective
	binary.LittleEndian.PutUint32(v[4:], 1<<unix.CAP_NET_RAW)
	binary.LittleEndian.PutUint32(v[capRootID:], root)
	return v
}

func xattr(t *testing.T, path, name string) []byte {
	t.Helper()
	buf := make([]byte, 1024)
	n, err := unix.Lgetxattr(path, name, buf)
	assert.NilError(t, err)
	return buf[:n]
}

func aclWith(uid, gid uint32) []byte {
	v := binary.LittleEndian.AppendUint32(nil, aclVersion)
	for _, e := range []struct {
		tag uint16
		id  uint32
	}{{1, 1<<32 - 1}, {aclTagUser, uid}, {4, 1<<32 - 1}, {aclTagGroup, gid}, {0x10, 1<<32 - 1}, {0x20, 1<<32 - 1}} {
		v = binary.LittleEndian.AppendUint16(v, e.tag)
		v = binary.LittleEndian.AppendUint16(v, 7)
		v = binary.LittleEndian.AppendUint32(v, e.id)
	}
	return v
}

// makeTree fills dir with one file of each kind that Chown treats in its own way.
func makeTree(t *testing.T, dir string, base uint32) {
	t.Helper()
	sub := filepath.Join(dir, "sub")
	assert.NilError(t, os.Mkdir(sub, 0o755))
	for _, name := range []string{"sub/file", "suid", "cap2", "cap3", "acl"} {
		p := filepath.Join(dir, name)
		assert.NilError(t, os.WriteFile(p, []byte(name), 0o644))
		assert.NilError(t, os.Chown(p, int(base)+1, int(base)+2))
	}
	assert.NilError(t, os.Chmod(filepath.Join(dir, "suid"), 0o755|os.ModeSetuid|os.ModeSetgid))
	assert.NilError(t, os.Link(filepath.Join(dir, "suid"), filepath.Join(sub, "link")))
	assert.NilError(t, os.Symlink("/etc/passwd", filepath.Join(dir, "symlink")))
	assert.NilError(t, os.Lchown(filepath.Join(dir, "symlink"), int(base)+3, int(base)))
	assert.NilError(t, unix.Mknod(filepath.Join(dir, "whiteout"), unix.S_IFCHR, 0))
	assert.NilError(t, os.Lchown(filepath.Join(dir, "whiteout"), int(base), int(base)))
	old := capability3(0)[:20]
	binary.LittleEndian.PutUint32(old, 0x02000001)
	assert.NilError(t, unix.Lsetxattr(filepath.Join(dir, "cap2"), dirfd.Capability, old, 0))
	assert.NilError(t, unix.Lsetxattr(filepath.Join(dir, "cap3"), dirfd.Capability, capability3(base+9), 0))
	assert.NilError(t, unix.Lsetxattr(filepath.Join(dir, "acl"), dirfd.ACL, aclWith(base+5, base+6), 0))
	assert.NilError(t, os.Chown(dir, int(base), int(base)))
	assert.NilError(t, os.Chown(sub, int(base)+1, int(base)))
	assert.NilError(t, os.Chtimes(sub, time.Time{}, time.Unix(1e9, 5)))
}

func TestChown(t *testing.T) {
	needRoot(t)
	for name, c := range map[string]struct {
		from, to *backend.IDMap
		before   uint32
		after    uint32
	}{
		"map it":      {nil, single(100000), 0, 100000},
		"unmap it":    {single(100000), nil, 100000, 0},
		"map over":    {single(100000), single(100001), 100000, 100001},
		"and back":    {single(100001), single(100000), 100001, 100000},
		"same":        {single(100000), single(100000), 100000, 100000},
		"nil and nil": {nil, nil, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			passwd := owner(t, "/etc/passwd")
			dir := scratch(t)
			makeTree(t, dir, c.before)
			assert.NilError(t, Chown(t.Context(), dir, c.from, c.to))
			own := func(u, g uint32) string { return fmt.Sprintf("%d:%d", c.after+u, c.after+g) }
			for name, want := range map[string]string{
				".": own(0, 0), "sub": own(1, 0), "sub/file": own(1, 2), "suid": own(1, 2), "sub/link": own(1, 2),
				"symlink": own(3, 0), "whiteout": own(0, 0), "cap2": own(1, 2), "cap3": own(1, 2), "acl": own(1, 2),
			} {
				assert.Equal(t, owner(t, filepath.Join(dir, name)), want, name)
			}
			st := stat(t, filepath.Join(dir, "suid"))
			assert.Equal(t, st.Mode&0o7777, uint32(0o6755))
			assert.Equal(t, st.Nlink, stat(t, filepath.Join(dir, "sub/link")).Nlink)
			mtime := stat(t, filepath.Join(dir, "sub")).Mtim
			assert.Equal(t, mtime.Nano(), time.Unix(1e9, 5).UnixNano())
			assert.Equal(t, len(xattr(t, filepath.Join(dir, "cap2"), dirfd.Capability)), 20)
			assert.DeepEqual(t, xattr(t, filepath.Join(dir, "cap3"), dirfd.Capability), capability3(c.after+9))
			assert.DeepEqual(t, xattr(t, filepath.Join(dir, "acl"), dirfd.ACL), aclWith(c.after+5, c.after+6))
			assert.Equal(t, owner(t, "/etc/passwd"), passwd)
		})
	}
}

func TestChownUnmapped(t *testing.T) {
	needRoot(t)
	for name, c := range map[string]struct {
		from, to *backend.IDMap
		uid, gid int
		want     string // owner afterwards, "" for an error
	}{
		"root without a map is the container's root": {single(100000), single(200000), 0, 0, "200000:200000"},
		"half of it is not":                          {single(100000), single(200000), 0, 100000, ""},
		"unknown to the first map":                   {single(100000), nil, 5, 5, ""},
		"unknown to the second map":                  {nil, single(100000), 65536, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := scratch(t)
			f := filepath.Join(dir, "file")
			assert.NilError(t, os.WriteFile(f, nil, 0o644))
			assert.NilError(t, os.Chown(f, c.uid, c.gid))
			err := Chown(t.Context(), dir, c.from, c.to)
			if c.want == "" {
				assert.Assert(t, errdefs.IsInvalidArgument(err), "%v", err)
				assert.ErrorContains(t, err, "file")
				return
			}
			assert.NilError(t, err)
			assert.Equal(t, owner(t, f), c.want)
		})
	}
}

// TestChownStaysInside holds that neither a mount nor a symbolic link leads out of the tree.
func TestChownStaysInside(t *testing.T) {
	needRoot(t)
	outside, dir := t.TempDir(), scratch(t)
	victim := filepath.Join(outside, "victim")
	assert.NilError(t, os.WriteFile(victim, nil, 0o644))
	assert.NilError(t, os.Symlink(outside, filepath.Join(dir, "link")))
	bind := filepath.Join(dir, "bind")
	assert.NilError(t, os.Mkdir(bind, 0o755))
	assert.NilError(t, unix.Mount(outside, bind, "", unix.MS_BIND, ""))
	defer func() { assert.Check(t, unix.Unmount(bind, unix.MNT_DETACH)) }()
	assert.NilError(t, Chown(t.Context(), dir, nil, single(100000)))
	assert.Equal(t, owner(t, victim), "0:0")
	assert.Equal(t, owner(t, outside), "0:0")
	assert.Equal(t, owner(t, filepath.Join(dir, "link")), "100000:100000")
}

// TestChownInUnion holds that names of one file stay names of one file when changing one of them
// copies it up.
func TestChownInUnion(t *testing.T) {
	needRoot(t)
	base := scratch(t)
	for _, d := range []string{"lower/dir", "upper", "work", "merged"} {
		assert.NilError(t, os.MkdirAll(filepath.Join(base, d), 0o755))
	}
	assert.NilError(t, os.WriteFile(filepath.Join(base, "lower/a"), []byte("x"), 0o644))
	assert.NilError(t, os.Link(filepath.Join(base, "lower/a"), filepath.Join(base, "lower/dir/b")))
	merged := filepath.Join(base, "merged")
	options := strings.ReplaceAll("lowerdir=B/lower,upperdir=B/upper,workdir=B/work,index=off", "B", base)
	assert.NilError(t, unix.Mount("overlay", merged, "overlay", 0, options))
	defer func() { assert.Check(t, unix.Unmount(merged, 0)) }()
	assert.NilError(t, Chown(t.Context(), merged, nil, single(100000)))
	a, b := stat(t, filepath.Join(merged, "a")), stat(t, filepath.Join(merged, "dir/b"))
	assert.Equal(t, a.Uid, uint32(100000))
	assert.Equal(t, b.Uid, uint32(100000))
	assert.Equal(t, a.Ino, b.Ino)
}

func TestBetween(t *testing.T) {
	r := func(n ...uint32) (list []backend.IDRange) {
		for i := 0; i < len(n); i += 3 {
			list = append(list, backend.IDRange{Container: n[i], Host: n[i+1], Size: n[i+2]})
		}
		return list
	}
	for name, c := range map[string]struct{ from, to, want []backend.IDRange }{
		"to a map":       {nil, r(0, 1000, 10), r(0, 1000, 10)},
		"from a map":     {r(0, 1000, 10), nil, r(1000, 0, 10)},
		"both":           {r(0, 1000, 10), r(0, 2000, 5), r(1000, 2000, 5)},
		"several ranges": {r(0, 1000, 1, 1, 5000, 9), r(0, 7000, 10), r(1000, 7000, 1, 5000, 7001, 9)},
		"an offset":      {r(5, 100, 10), r(8, 200, 100), r(103, 200, 7)},
		"the highest":    {r(4294967290, 0, 5), nil, r(0, 4294967290, 5)},
		"nothing":        {r(0, 1000, 10), r(10, 2000, 10), nil},
	} {
		t.Run(name, func(t *testing.T) {
			wrap := func(l []backend.IDRange) *backend.IDMap {
				if l == nil {
					return nil
				}
				return &backend.IDMap{UIDs: l, GIDs: l}
			}
			m, err := Between(wrap(c.from), wrap(c.to))
			if c.want == nil {
				assert.Assert(t, errdefs.IsInvalidArgument(err), "%v", err)
				return
			}
			assert.NilError(t, err)
			assert.DeepEqual(t, m.UIDs, c.want)
			assert.DeepEqual(t, m.GIDs, c.want)
		})
	}
}

func TestUserNamespace(t *testing.T) {
	needRoot(t)
	m := &backend.IDMap{
		UIDs: []backend.IDRange{{Container: 0, Host: 100000, Size: 10}, {Container: 50, Host: 7, Size: 1}},
		GIDs: []backend.IDRange{{Container: 0, Host: 300000, Size: 1}},
	}
	ns, err := UserNamespace(t.Context(), m)
	assert.NilError(t, err)
	defer ns.Close()
	out, err := exec.Command("nsenter", fmt.Sprintf("--user=/proc/%d/fd/%d", os.Getpid(), ns.Fd()), "cat", "/proc/self/uid_map", "/proc/self/gid_map").CombinedOutput()
	assert.NilError(t, err, string(out))
	assert.DeepEqual(t, strings.Fields(string(out)), strings.Fields("0 100000 10 50 7 1 0 300000 1"))

	over := []backend.IDRange{{Container: 0, Host: 0, Size: 10}, {Container: 5, Host: 100, Size: 10}}
	_, err = UserNamespace(t.Context(), &backend.IDMap{UIDs: over, GIDs: over})
	assert.Assert(t, errdefs.IsInvalidArgument(err), "%v", err)
}
