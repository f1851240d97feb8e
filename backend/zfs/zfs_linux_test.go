package zfs_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/backendtest"
	"strata/backend/internal/failpoint"
	"strata/backend/store"
	"strata/backend/zfs"
)

// TestRandomChanges compares the quick comparison with a complete one: on layers in use, on sealed ones, on clones
// whose template is there or gone.
func TestRandomChanges(t *testing.T) {
	r := newRig(t)
	const files = 400
	r.create("base", "")
	r.write("base", backendtest.Root(1, files))
	for seed := range uint64(6) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		r.create("l", "base")
		if seed%2 == 0 {
			r.write("l", backendtest.Churn(seed, 20, files))
		}
		for range 2 {
			r.write("l", shuffle(rnd, files, 15))
			r.same("l", "base")
		}
		assert.NilError(t, r.Clone(t.Context(), "clone", "l", store.CreateOptions{}))
		r.same("l", "base")
		r.same("clone", "base")
		r.write("clone", shuffle(rnd, files, 15))
		r.same("clone", "base")
		r.remove("l") // the clone takes over the snapshot
		r.settle()
		r.same("clone", "base")
		r.create("next", "clone")
		r.write("next", shuffle(rnd, files, 10))
		r.same("next", "clone")
		for _, name := range []string{"next", "clone"} {
			r.remove(name)
		}
	}
	assert.DeepEqual(t, r.check(store.CheckOptions{Deep: true}), []string{})
}

// TestKernelAnswers: this kernel tells what has changed, so that no trees are compared as a whole.
func TestKernelAnswers(t *testing.T) {
	info, err := newRig(t).Info(t.Context())
	assert.NilError(t, err)
	for _, f := range info.Fields {
		assert.Check(t, f.Name != "Changes", "%s: %s", f.Name, f.Value)
	}
}

// shuffle makes n random changes to a tree made by backendtest.Root, moves of directories and files with several names
// among them.
func shuffle(rnd *rand.Rand, files, n int) backendtest.Step {
	dirs := []string{"bin", "etc", "etc/default", "usr/bin", "usr/share/doc/libc6", "usr/share", "var/lib/dpkg", "root", "usr/moved", "var/moved"}
	dir := func() string { return dirs[rnd.IntN(len(dirs))] }
	file := func() string { return filepath.Join(dir(), fmt.Sprintf("file%05d", rnd.IntN(files))) }
	linked := func() string { return file() + []string{"", "-link"}[rnd.IntN(2)] }
	steps := []func() backendtest.Step{
		func() backendtest.Step { return backendtest.Rename(dir(), dir()) },
		func() backendtest.Step { return backendtest.Rename(linked(), linked()) },
		func() backendtest.Step { return backendtest.Link(linked(), linked()) },
		func() backendtest.Step { return backendtest.Link(file(), file()+"-link") },
		func() backendtest.Step { return backendtest.Symlink(file(), filepath.Join(dir(), "link")) },
		func() backendtest.Step { return backendtest.Remove(linked()) },
		func() backendtest.Step { return backendtest.RemoveAll(dir()) },
		func() backendtest.Step { return backendtest.MkdirAll(dir()) },
		func() backendtest.Step { return backendtest.Append(linked(), []byte("more")) },
		func() backendtest.Step { return backendtest.Chmod(linked(), 0o600) },
		func() backendtest.Step { return backendtest.SetXattr(linked(), "user.x", fmt.Sprint(rnd.IntN(1000))) },
		func() backendtest.Step {
			return backendtest.CreateFile(filepath.Join(dir(), "new"), backendtest.Noise(rnd.Uint64(), rnd.IntN(9000)), 0o644)
		},
	}
	return func(root string) error {
		for range n {
			if err := steps[rnd.IntN(len(steps))]()(root); err != nil && !expected(err) {
				return err
			}
		}
		return nil
	}
}

// expected tells errors of changes that do not fit the tree as it happens to be.
func expected(err error) bool {
	for _, e := range []error{unix.ENOENT, unix.ENOTDIR, unix.EEXIST, unix.EISDIR, unix.ENOTEMPTY, unix.EINVAL, unix.ELOOP, unix.EPERM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// TestHardLinks: ZFS knows of each file the directory where it got its last name. `zfs diff` leaves out a change of a file
// whose last name was removed.
func TestHardLinks(t *testing.T) {
	r := newRig(t)
	r.create("base", "")
	r.write("base", backendtest.MkdirAll("a"), backendtest.MkdirAll("b"), backendtest.MkdirAll("c/d"),
		backendtest.CreateFile("a/x", []byte("x"), 0o644), backendtest.Link("a/x", "b/x"), backendtest.Link("a/x", "c/d/x"),
		backendtest.CreateFile("a/y", []byte("y"), 0o644), backendtest.Link("a/y", "b/y"))
	r.create("middle", "base")
	r.write("middle", backendtest.Remove("b/y"))
	assert.DeepEqual(t, r.changes("middle", "base"), []string{"C /b", "D /b/y"})
	r.create("top", "middle")
	r.write("top", backendtest.Append("a/y", []byte("more")))
	assert.DeepEqual(t, r.changes("top", "middle"), []string{"C /a", "C /a/y"})
	r.write("top", backendtest.Append("b/x", []byte("more")))
	assert.DeepEqual(t, r.changes("top", "middle"), []string{"C /a", "C /a/x", "C /a/y", "C /b", "C /b/x", "C /c", "C /c/d", "C /c/d/x"})
	r.write("top", backendtest.RemoveAll("c"))
	r.same("top", "middle")
}

// TestNames has every byte that a name can hold, and what the kernel writes for extended attributes.
func TestNames(t *testing.T) {
	for _, xattr := range []string{"sa", "dir"} {
		t.Run(xattr, func(t *testing.T) {
			r := newRig(t)
			r.config.XAttr = xattr
			var every []byte
			for c := 1; c < 256; c++ {
				if c != '/' {
					every = append(every, byte(c))
				}
			}
			steps := []backendtest.Step{
				backendtest.MkdirAll("a b/<xattrdir>"), backendtest.CreateFile("a b/<xattrdir>/user.a", nil, 0o644),
				backendtest.CreateFile("plain", nil, 0o644), backendtest.CreateFile("other", nil, 0o644),
			}
			for len(every) > 0 {
				n := min(len(every), 128)
				steps = append(steps, backendtest.CreateFile(filepath.Join("a b", string(every[:n])), nil, 0o644))
				every = every[n:]
			}
			r.create("base", "")
			r.write("base", steps...)
			r.create("l", "base")
			assert.DeepEqual(t, r.changes("l", "base"), []string{})
			r.write("l", backendtest.SetXattr("plain", "user.a", "1"), backendtest.Append("a b/<xattrdir>/user.a", []byte("x")))
			assert.DeepEqual(t, r.changes("l", "base"), []string{"C /a b", "C /a b/<xattrdir>", "C /a b/<xattrdir>/user.a", "C /plain"})
			r.write("l", backendtest.SetXattr("a b", "user.big", strings.Repeat("v", 30000)))
			r.same("l", "base")
			r.create("next", "l")
			r.write("next", backendtest.SetXattr("plain", "user.a", "2")) // the attribute has a file of its own already
			assert.DeepEqual(t, r.changes("next", "l"), []string{"C /plain"})
		})
	}
}

// TestManyChanges has more changed files than the kernel is asked about one by one.
func TestManyChanges(t *testing.T) {
	r := newRig(t)
	r.create("base", "")
	r.write("base", backendtest.Root(1, 100))
	r.create("l", "base")
	r.mounted("l", func(dir string) {
		for i := range 5000 {
			path := filepath.Join(dir, "usr", fmt.Sprintf("d%d", i%7))
			assert.NilError(t, os.MkdirAll(path, 0o755))
			assert.NilError(t, os.WriteFile(filepath.Join(path, fmt.Sprint(i)), nil, 0o600))
		}
	})
	r.same("l", "base")
}

// TestFewCommands holds what each operation may cost in commands.
func TestFewCommands(t *testing.T) {
	r := newRig(t)
	calls := countCommands(t)
	for _, step := range []struct {
		what string
		do   func()
		want string
	}{
		{"open", r.reopen, "zfs get, zpool get"},
		{"base layer", func() { r.create("base", "") }, "zfs create"},
		{"first child", func() { r.create("one", "base") }, ""},
		{"second child", func() { r.create("two", "base") }, ""},
		{"limited child", func() {
			assert.NilError(t, r.Create(t.Context(), "three", "base", store.CreateOptions{Limit: 1 << 20}))
		}, ""},
		{"mount, write, unmount", func() { r.write("one", backendtest.CreateFile("f", nil, 0o644)) }, ""},
		{"changes in use", func() { r.changes("one", "base") }, ""},
		{"grandchild", func() { r.create("four", "one") }, ""},
		{"changes sealed", func() { r.changes("one", "base") }, ""},
		{"usage", func() { _, err := r.Usage(t.Context(), "one"); assert.NilError(t, err) }, "zfs get"},
		{"removal", func() { r.remove("four"); r.settle() }, "zfs program"},
		{"removal of a sealed layer", func() { r.remove("one"); r.settle() }, "zfs program"},
		{"status", func() { _, err := r.Info(t.Context()); assert.NilError(t, err) }, "zpool get, zfs list"},
	} {
		calls()
		step.do()
		got := calls()
		assert.Equal(t, strings.Join(got, ", "), step.want, step.what)
	}
}

// TestRemoveInTheWay names what keeps a layer from being removed, and removes it once that is gone.
func TestRemoveInTheWay(t *testing.T) {
	r := newRig(t)
	back, err := zfs.New(t.Context(), backend.Env{Home: filepath.Join(r.dir, "store/data/zfs"), UUID: r.uuid()}, r.config)
	assert.NilError(t, err)
	defer func() { assert.NilError(t, back.(backend.Closer).Close()) }()
	mnt := t.TempDir()
	for _, c := range []struct{ name, put, want, take string }{
		{"foreign snapshot", "zfs snapshot DS@auto", "", ""},
		{"foreign clone", "zfs snapshot DS@mine; zfs clone DS@mine POOL/mine", "clones of snapshots of DS: POOL/mine: zfs destroy or zfs promote", "zfs promote POOL/mine"},
		{"hold", "zfs snapshot DS@kept; zfs hold keep DS@kept", "holds snapshots of DS: DS@kept: zfs release", "zfs release keep DS@kept"},
		{"dataset below", "zfs create -o mountpoint=none DS/sub", "datasets below DS: DS/sub", "zfs destroy DS/sub"},
		{"mount", "mount -t zfs DS " + mnt, "DS is still mounted", "umount " + mnt},
	} {
		t.Run(c.name, func(t *testing.T) {
			r.create("l", "")
			r.create("child", "l")
			r.remove("child")
			r.settle()
			l := backend.Layer{ID: r.id("l")}
			expand := strings.NewReplacer("DS", r.dataset("l"), "POOL", r.pool).Replace
			command(t, "sh", "-ec", expand(c.put))
			err := back.Remove(t.Context(), l)
			if c.want == "" {
				assert.NilError(t, err)
			} else {
				assert.ErrorContains(t, err, expand(c.want))
				assert.Assert(t, errdefs.IsFailedPrecondition(err) || errdefs.IsUnavailable(err), "%v", err)
				command(t, "sh", "-ec", expand(c.take))
				assert.NilError(t, back.Remove(t.Context(), l))
			}
			r.remove("l")
			r.settle()
		})
	}
	command(t, "zfs", "destroy", "-r", r.pool+"/mine")
}

// TestHalfMade: a dataset that a power cut kept from getting its properties is removed with the layer's record, and is in nobody's way.
func TestHalfMade(t *testing.T) {
	r := newRig(t)
	back, err := zfs.New(t.Context(), backend.Env{Home: filepath.Join(r.dir, "store/data/zfs"), UUID: r.uuid()}, r.config)
	assert.NilError(t, err)
	defer func() { assert.NilError(t, back.(backend.Closer).Close()) }()
	r.create("l", "")
	r.create("child", "l")
	const base, clone, heir, other = "aaaaaaaaaaaaaaa2", "aaaaaaaaaaaaaaa3", "aaaaaaaaaaaaaaa4", "aaaaaaaaaaaaaaa5"
	snapshot := r.dataset("l") + "@" + r.id("l")
	command(t, "zfs", "create", "-o", "mountpoint="+filepath.Join(r.dir, "imported"), r.pool+"/"+base) // and mounted, as an import does
	command(t, "zfs", "create", "-o", "mountpoint=none", "-o", "strata:store=another", r.pool+"/"+other)
	for _, name := range []string{clone, heir} {
		command(t, "zfs", "clone", "-o", "mountpoint=none", snapshot, r.pool+"/"+name)
	}
	for _, name := range []string{base, clone, other} {
		assert.NilError(t, back.Remove(t.Context(), backend.Layer{ID: name}))
	}
	r.remove("child")
	r.remove("l")
	r.settle()
	left := command(t, "zfs", "list", "-H", "-o", "name", "-r", r.pool)
	for name, want := range map[string]bool{base: false, clone: false, other: true, heir: true} {
		assert.Equal(t, strings.Contains(left, r.pool+"/"+name), want, "%s: %s", name, left)
	}
	assert.NilError(t, back.Remove(t.Context(), backend.Layer{ID: heir}))
	command(t, "zfs", "destroy", r.pool+"/"+other)
}

func (r *rig) uuid() string {
	r.Helper()
	info, err := r.Info(r.Context())
	assert.NilError(r, err)
	return info.UUID
}

// TestRemoveIsTriedAgain: what cannot be removed now goes in the background later, also by another process.
func TestRemoveIsTriedAgain(t *testing.T) {
	r := newRig(t)
	r.create("l", "")
	dataset := r.dataset("l")
	command(t, "zfs", "snapshot", dataset+"@kept")
	command(t, "zfs", "hold", "keep", dataset+"@kept")
	r.remove("l")
	r.create("l", "") // the name is free at once
	r.reopen()
	command(t, "zfs", "list", dataset)
	command(t, "zfs", "release", "keep", dataset+"@kept")
	r.settle()
}

// TestForeignDataset: a dataset that is not this store's is neither taken, nor changed, nor removed.
func TestForeignDataset(t *testing.T) {
	r := newRig(t)
	back, err := zfs.New(t.Context(), backend.Env{Home: filepath.Join(r.dir, "store/data/zfs"), UUID: r.uuid()}, r.config)
	assert.NilError(t, err)
	defer func() { assert.NilError(t, back.(backend.Closer).Close()) }()
	command(t, "zfs", "create", "-o", "mountpoint=legacy", r.pool+"/precious")
	l := backend.Layer{ID: "precious"}
	err = back.Create(t.Context(), l)
	assert.Assert(t, errdefs.IsAlreadyExists(err), "%v", err)
	assert.NilError(t, back.Remove(t.Context(), l))
	command(t, "zfs", "destroy", r.pool+"/precious")
	for _, id := range []string{"", "a/b", "a@b", "..", "-r", "A"} {
		assert.Assert(t, errdefs.IsInvalidArgument(back.Create(t.Context(), backend.Layer{ID: id})), "%q", id)
		assert.Assert(t, errdefs.IsInvalidArgument(back.Remove(t.Context(), backend.Layer{ID: id})), "%q", id)
	}
}

// TestSealAgain: a layer that was written to after a Seal that was not noted gives its children all that it holds.
func TestSealAgain(t *testing.T) {
	r := newRig(t)
	r.create("l", "")
	r.write("l", backendtest.CreateFile("before", nil, 0o644))
	disarm := failpoint.Arm("store.seal.sealed", func() error { return failpoint.ErrInjected })
	err := r.Create(t.Context(), "child", "l", store.CreateOptions{})
	disarm()
	assert.ErrorIs(t, err, failpoint.ErrInjected)
	r.write("l", backendtest.CreateFile("after", nil, 0o644))
	r.create("child", "l")
	r.mounted("child", func(dir string) {
		_, err := os.Lstat(filepath.Join(dir, "after"))
		assert.NilError(t, err)
	})
	// The same with a child whose record is lost.
	r.create("m", "")
	command(t, "zfs", "snapshot", r.dataset("m")+"@"+r.id("m"))
	command(t, "zfs", "clone", "-o", "mountpoint=legacy", "-o", "strata:store="+r.uuid(), r.dataset("m")+"@"+r.id("m"), r.pool+"/lost")
	r.write("m", backendtest.CreateFile("late", nil, 0o644))
	r.create("n", "m")
	assert.DeepEqual(t, r.changes("n", "m"), []string{})
	r.mounted("n", func(dir string) {
		_, err := os.Lstat(filepath.Join(dir, "late"))
		assert.NilError(t, err)
	})
	r.remove("n")
	r.remove("m")
	r.settle() // the lost child took over what it is made of
	orphans, err := r.GC(t.Context(), store.GCOptions{Yes: true})
	assert.NilError(t, err)
	assert.Equal(t, len(orphans), 1)
	assert.Equal(t, orphans[0].ID, "lost")
}

// TestSurvey names what others have put among the layers, and clears away its own leftovers.
func TestSurvey(t *testing.T) {
	r := newRig(t)
	r.create("base", "")
	r.create("l", "base")
	assert.DeepEqual(t, r.check(store.CheckOptions{}), []string{})
	dataset := r.dataset("l")
	command(t, "zfs", "snapshot", "-r", r.pool+"@hourly")
	command(t, "zfs", "create", "-o", "mountpoint=none", dataset+"/below")
	command(t, "zfs", "create", "-o", "mountpoint=legacy", r.pool+"/old")
	command(t, "zfs", "create", "-o", "mountpoint=none", r.pool+"/unrelated")
	found := strings.Join(r.check(store.CheckOptions{}), "\n")
	for _, want := range []string{
		"oddity l: somebody has made the snapshot " + dataset + "@hourly",
		"oddity base: somebody has made the snapshot " + r.dataset("base") + "@hourly",
		"oddity l: somebody has made the filesystem " + dataset + "/below",
		"notice : another program has 1 layers beside those of the store, such as old: strata adopt",
	} {
		assert.Assert(t, strings.Contains(found, want), "%s\nis not in\n%s", want, found)
	}
	assert.Equal(t, strings.Count(found, "\n"), 3, found)
	orphans, err := r.GC(t.Context(), store.GCOptions{Yes: true})
	assert.NilError(t, err)
	assert.Equal(t, len(orphans), 3)
	assert.Assert(t, !orphans[0].Removed)
	for _, name := range []string{dataset + "/below", r.pool + "/old", r.pool + "/unrelated"} {
		command(t, "zfs", "destroy", "-r", name)
	}
	command(t, "zfs", "destroy", "-r", r.pool+"@hourly")
	assert.DeepEqual(t, r.check(store.CheckOptions{}), []string{})
}

// TestLostSnapshot: a sealed layer whose snapshot was destroyed gets another.
func TestLostSnapshot(t *testing.T) {
	r := newRig(t)
	r.create("base", "")
	r.write("base", backendtest.CreateFile("f", nil, 0o644))
	r.create("child", "base")
	r.remove("child")
	r.settle()
	command(t, "zfs", "destroy", r.dataset("base")+"@"+r.id("base"))
	found := r.check(store.CheckOptions{})
	assert.Equal(t, len(found), 1)
	assert.Assert(t, strings.Contains(found[0], "somebody has destroyed its snapshot"), found[0])
	assert.DeepEqual(t, r.check(store.CheckOptions{Repair: true}), []string{})
	assert.DeepEqual(t, r.check(store.CheckOptions{}), []string{})
	r.create("child", "base")
	assert.DeepEqual(t, r.changes("child", "base"), []string{})
}

// TestAdopt takes in what Docker's zfs driver has made (daemon/graphdriver/zfs/zfs.go): datasets named like IDs, clones
// of snapshots that are marked to go with the last clone.
func TestAdopt(t *testing.T) {
	r := newRig(t)
	image, container := strings.Repeat("a", 64), strings.Repeat("b", 64)
	script := fmt.Sprintf(`
		zfs create -o mountpoint=legacy $1/%[1]s
		mount -t zfs $1/%[1]s $2; echo image >$2/f; umount $2
		zfs snapshot $1/%[1]s@123456789; zfs clone -o mountpoint=legacy $1/%[1]s@123456789 $1/%[2]s-init; zfs destroy -d $1/%[1]s@123456789
		zfs snapshot $1/%[2]s-init@99; zfs clone -o mountpoint=legacy $1/%[2]s-init@99 $1/%[2]s; zfs destroy -d $1/%[2]s-init@99
		mount -t zfs $1/%[2]s $2; echo container >$2/g; umount $2
		zfs create -o mountpoint=none $1/%[3]s`, image, container, strings.Repeat("c", 64))
	command(t, "sh", "-ec", script, "sh", r.pool, t.TempDir())

	want := []store.Adoption{{Name: image}, {Name: container + "-init", Parent: image}, {Name: container, Parent: container + "-init"}}
	list, err := r.Adopt(t.Context(), false)
	assert.NilError(t, err)
	assert.DeepEqual(t, list, want)
	_, err = r.Adopt(t.Context(), true)
	assert.ErrorContains(t, err, "exact-diffs=false")
	assert.NilError(t, r.Close(t.Context()))
	assert.NilError(t, os.RemoveAll(filepath.Join(r.dir, "store")))
	r.Store, r.exact = nil, false
	r.reopen()
	for _, point := range []string{"store.adopt.recorded", "store.adopt.adopted"} {
		disarm := failpoint.Arm(point, func() error { return failpoint.ErrInjected })
		_, err := r.Adopt(t.Context(), true)
		disarm()
		assert.ErrorIs(t, err, failpoint.ErrInjected)
		r.reopen()
	}
	list, err = r.Adopt(t.Context(), true)
	assert.NilError(t, err)
	assert.Assert(t, list[len(list)-1].Adopted)
	list, err = r.Adopt(t.Context(), true)
	assert.NilError(t, err)
	assert.Equal(t, len(list), 0)
	assert.DeepEqual(t, r.check(store.CheckOptions{}), []string{})
	assert.DeepEqual(t, r.changes(container, container+"-init"), []string{"A /g"})
	assert.DeepEqual(t, r.changes(container+"-init", image), []string{})
	r.create("child", image)
	r.write("child", backendtest.Remove("f"))
	assert.DeepEqual(t, r.changes("child", image), []string{"D /f"})
	usage, err := r.Usage(t.Context(), container)
	assert.NilError(t, err)
	assert.Assert(t, usage.Size < 1<<20)
	command(t, "zfs", "destroy", r.pool+"/"+strings.Repeat("c", 64))
}

// TestStatus has the fields of Docker's zfs driver, in its order, as they are now.
func TestStatus(t *testing.T) {
	r := newRig(t)
	info, err := r.Info(t.Context())
	assert.NilError(t, err)
	var names []string
	for _, f := range info.Fields {
		names = append(names, f.Name)
	}
	assert.DeepEqual(t, names, []string{"Zpool", "Zpool Health", "Parent Dataset", "Space Used By Parent", "Space Available", "Parent Quota", "Compression"})
	assert.Equal(t, info.Fields[1].Value, "ONLINE")
	assert.Equal(t, info.Fields[5].Value, "no")
	command(t, "zfs", "set", "quota=100M", "compression=lz4", r.pool)
	info, err = r.Info(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, info.Fields[5].Value, fmt.Sprint(100<<20))
	assert.Equal(t, info.Fields[6].Value, "lz4")
	r.create("base", "")
	r.create("l", "base")
	fields, err := r.Describe(t.Context(), "l")
	assert.NilError(t, err)
	assert.DeepEqual(t, fields, []backend.Field{{Name: "Dataset", Value: r.dataset("l")}, {Name: "Origin", Value: r.dataset("base") + "@" + r.id("base")}})
}

// TestProperties gives new layers what the options say, and leaves the rest to the parent dataset.
func TestProperties(t *testing.T) {
	r := newRig(t)
	command(t, "zfs", "set", "compression=gzip-3", r.pool)
	r.config.RecordSize = "32K"
	limit := store.CreateOptions{Limit: 10 << 20}
	assert.NilError(t, r.Create(t.Context(), "base", "", limit))
	assert.NilError(t, r.Create(t.Context(), "child", "base", limit))
	get := func(layer, name string) string {
		return strings.TrimSpace(command(t, "zfs", "get", "-Hp", "-o", "value", name, r.dataset(layer)))
	}
	for _, layer := range []string{"base", "child"} {
		for name, want := range map[string]string{
			"compression": "gzip-3", "recordsize": "32768", "atime": "off", "xattr": "sa", "acltype": "posix",
			"mountpoint": "legacy", "com.sun:auto-snapshot": "false", "strata:store": r.uuid(), "quota": fmt.Sprint(10 << 20),
		} {
			assert.Equal(t, get(layer, name), want, "%s of %s", name, layer)
		}
		assert.NilError(t, r.SetLimit(t.Context(), layer, 0))
		assert.Equal(t, get(layer, "quota"), "0")
	}
	// The numbers that the kernel is told mean what zfs(8) means by the words.
	for i, want := range []struct{ compression, atime, xattr, acltype string }{
		{"on", "on", "off", "off"}, {"off", "off", "dir", "off"}, {"lz4", "on", "sa", "posix"}, {"zstd-7", "off", "sa", "off"},
	} {
		r.config.Compression, r.config.ATime, r.config.XAttr = want.compression, want.atime, want.xattr
		r.config.ACLType = strings.Replace(want.acltype, "posix", "posixacl", 1)
		layer := fmt.Sprint("l", i)
		r.create(layer, "base")
		got := want
		got.compression, got.atime, got.xattr, got.acltype = get(layer, "compression"), get(layer, "atime"), get(layer, "xattr"), get(layer, "acltype")
		if got.xattr == "on" { // what OpenZFS before 2.3 calls it
			got.xattr = "dir"
		}
		assert.Equal(t, got, want)
	}
}

// TestParent finds the parent dataset again, and refuses what cannot be it.
func TestParent(t *testing.T) {
	r := newRig(t)
	open := func(root, dataset string) error {
		c := zfs.NewConfig()
		c.FSName = dataset
		s, err := store.Open(t.Context(), store.Config{Root: root, Backend: "zfs", New: func(ctx context.Context, env backend.Env) (backend.Backend, error) {
			return zfs.New(ctx, env, c)
		}})
		if err != nil {
			return err
		}
		return errors.Join(s.Create(t.Context(), "l", "", store.CreateOptions{}), s.Remove(t.Context(), "l"), s.Close(t.Context()))
	}
	elsewhere := filepath.Join(t.TempDir(), "store") // not on ZFS
	refused := func(root, dataset, want string) {
		t.Helper()
		err := open(root, dataset)
		assert.ErrorContains(t, err, want)
		assert.Assert(t, errdefs.IsFailedPrecondition(err) || errdefs.IsInvalidArgument(err), "%v", err)
	}
	refused(elsewhere, "", "does not lie on ZFS")
	refused(elsewhere, r.pool+"/missing", "zfs create it")
	refused(elsewhere, "no-such-pool", "dataset does not exist")
	refused(elsewhere, "a@b", "is not the name of a dataset")
	command(t, "zfs", "create", "-V", "10M", r.pool+"/volume")
	refused(elsewhere, r.pool+"/volume", "want a file system")
	command(t, "zfs", "create", "-o", "mountpoint=none", r.pool+"/one")
	assert.NilError(t, open(elsewhere, r.pool+"/one"))
	assert.NilError(t, open(elsewhere, ""), "it is remembered")
	refused(elsewhere, r.pool, "set zfs.fsname to where that is now")
	command(t, "zfs", "rename", r.pool+"/one", r.pool+"/two")
	refused(elsewhere, "", "dataset does not exist")
	assert.NilError(t, open(elsewhere, r.pool+"/two"), "renamed")
	key := filepath.Join(t.TempDir(), "key")
	assert.NilError(t, os.WriteFile(key, make([]byte, 32), 0o600))
	command(t, "zfs", "create", "-o", "encryption=on", "-o", "keyformat=raw", "-o", "keylocation=file://"+key, "-o", "mountpoint=none", r.pool+"/secret")
	other := filepath.Join(t.TempDir(), "store")
	assert.NilError(t, open(other, r.pool+"/secret"))
	command(t, "zfs", "unload-key", r.pool+"/secret")
	refused(other, "", "zfs load-key "+r.pool+"/secret")
	for _, name := range []string{"two", "secret", "volume"} {
		command(t, "zfs", "destroy", "-r", r.pool+"/"+name)
	}
	assert.NilError(t, r.UnmountAll(t.Context()))
}

// TestTwoStores keeps the layers of two stores in one dataset apart, and clones one's for the other.
func TestTwoStores(t *testing.T) {
	r := newRig(t)
	r.create("base", "")
	r.write("base", backendtest.CreateFile("f", []byte("f"), 0o644))
	r.create("child", "base")
	o := r.options()
	o.Root += "2"
	o.Stores = []string{filepath.Join(r.dir, "store")}
	s, err := store.Open(t.Context(), o)
	assert.NilError(t, err)
	assert.NilError(t, s.Create(t.Context(), "mine", "base", store.CreateOptions{}))
	changes, err := backendtest.Collect(s.Changes(t.Context(), "mine", "base"))
	assert.NilError(t, err)
	assert.Equal(t, len(changes), 0)
	for _, st := range []*store.Store{s, r.Store} {
		found, err := st.Check(t.Context(), store.CheckOptions{})
		assert.NilError(t, err)
		assert.Equal(t, len(found), 0, "%v", found)
		orphans, err := st.GC(t.Context(), store.GCOptions{Yes: true})
		assert.NilError(t, err)
		assert.Equal(t, len(orphans), 0)
	}
	assert.NilError(t, s.Remove(t.Context(), "mine"))
	(&rig{TB: t, Store: s}).settle()
	assert.NilError(t, s.Close(t.Context()))
}
