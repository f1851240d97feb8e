package backendtest

import (
	"archive/tar"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"

	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/store"
)

// inheritRows are about what new files get from the directory that they are made in: a layer has what the image has, whatever
// lies above the store.
func inheritRows() []row {
	return []row{
		{name: "what the store's directory inherits", config: func(c *store.Config) { _ = heirloom()(filepath.Dir(c.Root)) }, run: inherited},
		{name: "how the file system stores what is in the store's directory", config: func(c *store.Config) { storedOddly(filepath.Dir(c.Root)) }, run: storage},
		{name: "default ACLs of an image", run: ownDefaultACL},
		{name: "protected by chattr", run: protectedFiles},
	}
}

// Names of access control lists (linux/xattr.h).
const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
)

// acl lets a user do more than others (linux/posix_acl_xattr.h).
func acl(uid uint32) string {
	const none = 1<<32 - 1
	v := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{1, 7, none}, {2, 7, uid}, {4, 5, none}, {16, 7, none}, {32, 5, none}} {
		v = binary.LittleEndian.AppendUint16(v, e.tag)
		v = binary.LittleEndian.AppendUint16(v, e.perm)
		v = binary.LittleEndian.AppendUint32(v, e.id)
	}
	return string(v)
}

// heirloom gives a directory what those that are made in it inherit.
func heirloom() Step {
	return Steps(Chown(".", 0, 50), Chmod(".", 0o755|modeSetgid), SetXattr(".", aclDefault, acl(1234)))
}

// Inode flags that new files inherit (linux/fs.h).
const (
	flagNoDump  = 0x40
	flagNoAtime = 0x80
	flagNoCow   = 0x800000
)

// Inode flags that keep a file as it is (the same file).
const (
	flagImmutable = 0x10
	flagAppend    = 0x20
)

// storedOddly tells the file system how to store what is made in a directory, as far as it can.
func storedOddly(dir string) {
	_ = setFlags(dir, flagNoDump|flagNoAtime)
	_ = setXattr(dir, "btrfs.compression", "zstd")
}

// storage: how a file is stored is no part of a layer. On btrfs that has the form of an extended attribute.
func storage(r *rig) {
	above, err := xattrs(r.dir)
	assert.NilError(r.t, err)
	assert.Equal(r.t, above["btrfs.compression"] == "zstd", r.f.FS == "btrfs")
	r.create("base", "")
	r.write("base", Mkdir("d", 0o755), CreateFile("d/f", Noise(1, 100000), 0o644), CreateFile("g", nil, 0o600))
	r.create("child", "base")
	r.sameChanges(nil, r.changes("child", "base"))
	r.write("child", CreateFile("h", nil, 0o644), CreateFile("other", nil, 0o644))
	r.mounted("child", func(dir string) {
		if r.f.FS == "btrfs" {
			_ = removeXattr(filepath.Join(dir, "h"), "btrfs.compression") // which excludes the flag, if h has inherited it
			assert.NilError(r.t, setFlags(filepath.Join(dir, "h"), flagNoCow))
			assert.NilError(r.t, Append("h", []byte("without cow"))(dir))
		}
	})
	r.sameChanges([]backend.Change{{Path: "/h", Kind: backend.Added}, {Path: "/other", Kind: backend.Added}}, r.changes("child", "base"))
	for _, parent := range []string{"", "base"} {
		text := r.diff("child", parent)
		assert.Assert(r.t, !strings.Contains(string(text), "btrfs."))
		r.fill("copy", parent, text)
		r.sameChanges(nil, r.changes("copy", "child"))
		r.remove("copy")
	}
	assert.NilError(r.t, r.store.Clone(r.ctx(), "clone", "child", store.CreateOptions{}))
	r.create("grandchild", "child")
	r.sameChanges(nil, r.changes("grandchild", "child"))
	r.sameChanges(nil, r.changes("clone", "child"))
}

// noInheritance fails the test if a file has an ACL, or the group that the directory above the store has.
func noInheritance(r *rig, t Tree, what string) {
	r.t.Helper()
	for name, e := range t {
		assert.Check(r.t, e.GID != 50 && len(e.Xattrs) == 0 && e.Mode&os.ModeSetgid == 0, "%s: %s: %v %d %v", what, name, e.Mode, e.GID, e.Xattrs)
	}
}

func inherited(r *rig) {
	above, err := xattrs(r.dir)
	assert.NilError(r.t, err)
	assert.Equal(r.t, above[aclDefault] != "", r.f.FS != "zfs", "the file system has ACLs")
	r.create("base", "")
	plain := Steps(Mkdir("d", 0o755), Mkdir("d/e", 0o700), CreateFile("d/f", []byte("x"), 0o644), CreateFile("g", nil, 0o600), Symlink("g", "s"), Fifo("p", 0o644))
	r.write("base", plain)
	noInheritance(r, r.tree("base"), "base")
	r.create("child", "base")
	noInheritance(r, r.tree("child"), "child")
	r.sameChanges(nil, r.changes("child", "base"))
	r.same(r.tree("base"), r.tree("child"), "child")
	r.write("child", Mkdir("d/new", 0o755), CreateFile("d/new/f", nil, 0o644), CreateFile("top", nil, 0o644), Append("g", []byte("y")), Chmod("d/e", 0o711))
	noInheritance(r, r.tree("child"), "written child")
	r.sameChanges([]backend.Change{
		{Path: "/d", Kind: backend.Modified},
		{Path: "/d/e", Kind: backend.Modified},
		{Path: "/d/new", Kind: backend.Added},
		{Path: "/d/new/f", Kind: backend.Added},
		{Path: "/g", Kind: backend.Modified},
		{Path: "/top", Kind: backend.Added},
	}, r.changes("child", "base"))
	for _, parent := range []string{"", "base"} {
		text := r.diff("child", parent)
		assert.Assert(r.t, !strings.Contains(string(text), "posix_acl"))
		r.fill("copy", parent, text)
		noInheritance(r, r.tree("copy"), "copy")
		r.same(rootless(r.tree("child")), rootless(r.tree("copy")), "copy")
		r.remove("copy")
	}
	assert.NilError(r.t, r.store.Clone(r.ctx(), "clone", "child", store.CreateOptions{}))
	noInheritance(r, r.tree("clone"), "clone")
	assert.NilError(r.t, r.createWith("mapped", "base", store.CreateOptions{IDMap: shifted(100000)}))
	noInheritance(r, r.tree("mapped"), "mapped")
	info, err := r.store.Info(r.ctx())
	assert.NilError(r.t, err)
	r.mounted("mapped", func(dir string) {
		for _, dir := range []string{r.cfg.Root, r.env.Home, info.MountDir, filepath.Dir(dir), filepath.Join(r.cfg.Root, "layers")} {
			left, err := xattrs(dir)
			assert.NilError(r.t, err)
			assert.Equal(r.t, len(left), 0, "%s: %v", dir, left)
		}
		assert.Assert(r.t, reads(r, 100000, filepath.Join(dir, "d/f")))
	})
}

// ownDefaultACL: what is in a directory of the image's that has a default ACL has the attributes that the tar says, or none.
func ownDefaultACL(r *rig) {
	if err := SetXattr(".", aclDefault, acl(1))(r.newPlain()); err != nil {
		assert.Equal(r.t, r.f.FS, "zfs", "%v", err)
		return
	}
	d, root := directory("d"), directory(".")
	d.PAXRecords = map[string]string{"SCHILY.xattr." + aclDefault: acl(1234)}
	root.PAXRecords = d.PAXRecords
	node := member{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "d/p", Mode: 0o640, ModTime: old}}
	text := archive(root, d, file("d/f", "x"), directory("d/sub"), file("d/sub/g", "y"), sym("f", "d/s"), node, file("top", "z"))
	above := archive(file("d/new", "n"), directory("d/sub/more"), file("d/f", "changed"), file("top2", "z"))
	check := func(layer string) {
		r.t.Helper()
		for name, e := range r.tree(layer) {
			if name != "d" && name != "." {
				assert.Check(r.t, len(e.Xattrs) == 0, "%s: %s has %v", layer, name, e.Xattrs)
			}
		}
	}
	r.fill("base", "", text)
	check("base")
	r.create("empty", "base")
	check("empty")
	r.sameChanges(nil, r.changes("empty", "base"))
	r.fill("top", "base", above)
	check("top")
	assert.NilError(r.t, r.store.Clone(r.ctx(), "clone", "top", store.CreateOptions{}))
	check("clone")
	r.fill("flat", "", r.diff("top", ""))
	r.same(rootless(r.tree("top")), rootless(r.tree("flat")), "flat")
	r.fill("again", "base", r.diff("top", "base"))
	r.same(r.tree("top"), r.tree("again"), "again")
}

// protectedFiles: a container may protect files from everybody (chattr +i, +a). That keeps neither layers from being made above its
// own, whatever owners these have, nor any from being removed.
func protectedFiles(r *rig) {
	r.create("base", "")
	r.write("base", Mkdir("d", 0o755), CreateFile("d/f", []byte("f"), 0o755|modeSetuid), Mkdir("log", 0o700), CreateFile("log/a", nil, 0o644), CreateFile("g", nil, 0o644))
	protect := func(dir string) {
		for _, p := range []struct {
			path string
			flag uint32
		}{{"d/f", flagImmutable}, {"d", flagImmutable}, {"log/a", flagAppend}, {"log", flagAppend}, {".", flagImmutable}} {
			assert.NilError(r.t, setFlags(filepath.Join(dir, p.path), p.flag))
		}
	}
	want := r.tree("base")
	r.mounted("base", protect)
	r.create("child", "base")
	r.same(want, r.tree("child"), "child")
	r.sameChanges(nil, r.changes("child", "base"))
	assert.NilError(r.t, r.createWith("mapped", "base", store.CreateOptions{IDMap: shifted(100000)}))
	r.same(up(want, 100000), r.tree("mapped"), "mapped child")
	r.create("own", "child")
	r.mounted("own", protect)
	if _, ok := r.back.(backend.Cloner); ok {
		assert.NilError(r.t, r.store.SetIDMap(r.ctx(), "own", shifted(200000)))
		r.same(up(want, 200000), r.tree("own"), "layer with another map")
	}
	r.fill("flat", "", r.diff("child", ""))
	r.same(rootless(want), rootless(r.tree("flat")), "flat copy")
	for _, name := range []string{"own", "mapped", "child", "base"} {
		r.remove(name)
	}
	r.reopenDropping("flat")
}
