package backendtest

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/store"
)

// touchRows are about changes that are hard to see: what a layer's diff makes of its parent must be the layer in every
// respect, to the nanosecond and to the groups of hard links, whatever was done to the files and their times.
func touchRows() []row {
	return []row{
		{name: "touched and looking the same", run: touched},
		{name: "touched at random", run: touchedAtRandom},
		{name: "deeper than a path can say", run: deeperThanPaths},
		{name: "deep trees take little", run: deepTakesLittle},
		{name: "socket in place of a file", run: socketInstead},
		{name: "owner outside the map", run: ownerOutside},
	}
}

// whole is a time as archives have it whose files are all of one time.
var whole = time.Unix(1000000000, 0)

// aclUser1 is an access list as it is kept in system.posix_acl_* (include/uapi/linux/posix_acl_xattr.h): user::rw-, user:1:r--,
// group::r--, mask::r--, other::r--.
const aclUser1 = "\x02\x00\x00\x00" + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\x01\x00\x00\x00" +
	"\x04\x00\x04\x00\xff\xff\xff\xff" + "\x10\x00\x04\x00\xff\xff\xff\xff" + "\x20\x00\x04\x00\xff\xff\xff\xff"

// clamped is a tree all of whose times are the same.
func clamped() Step {
	content := []byte("1.2.3\n")
	tree := Steps(Mkdir("d", 0o755), Mkdir("e", 0o755), Mkdir("e/sub", 0o755), CreateFile("v", content, 0o644), SetXattr("v", "user.a", "1"),
		CreateFile("x", content, 0o644), CreateFile("d/v", content, 0o644), CreateFile("e/sub/f", content, 0o644),
		CreateFile("l1", content, 0o644), Link("l1", "l2"), Link("l1", "d/l3"), CreateFile("m1", content, 0o644), Link("m1", "m2"),
		CreateFile("big", Noise(3, 300<<10), 0o644), SparseFile("sparse", 1<<20, 1<<19, []byte("data")),
		Symlink("target", "s"), CharDevice("c", 0o600, 1, 3), Fifo("p", 0o600), CreateFile("none", nil, 0o600))
	names := []string{"v", "x", "d/v", "e/sub/f", "l1", "m1", "big", "sparse", "s", "c", "p", "none", "d", "e/sub", "e"}
	for _, n := range names {
		tree = Steps(tree, SetTime(n, whole))
	}
	return tree
}

// touches are ways to change a file of a clamped tree so that it looks as before, or nearly so.
func touches() map[string]Step {
	other, same := []byte("1.2.4\n"), []byte("1.2.3\n")
	return map[string]Step{
		"written anew":          Keep("v", CreateFile("v", other, 0o644)),
		"half a second later":   Steps(CreateFile("v", other, 0o644), SetTime("v", whole.Add(time.Second/2))),
		"half a second only":    SetTime("v", whole.Add(time.Second/2)),
		"a nanosecond":          SetTime("d/v", whole.Add(1)),
		"overwritten":           Keep("big", Overwrite("big", 250<<10, other)),
		"cut and grown":         Keep("big", Truncate("big", 1000), Truncate("big", 300<<10)),
		"mapped":                Keep("big", WriteMapped("big", 100<<10, other)),
		"hole":                  Keep("big", PunchHole("big", 64<<10, 64<<10)),
		"hole filled":           Keep("sparse", Overwrite("sparse", 100<<10, other)),
		"hole filled with zero": Keep("sparse", Overwrite("sparse", 100<<10, make([]byte, 5000))),
		"moved over":            Keep("v", CreateFile("w", other, 0o644), SetXattr("w", "user.a", "1"), Rename("w", "v")),
		"linked over":           Keep("v", CreateFile("w", other, 0o644), SetXattr("w", "user.a", "1"), Remove("v"), Link("w", "v")),
		"removed and made":      Keep("v", Remove("v"), CreateFile("v", same, 0o644), SetXattr("v", "user.a", "1")),
		"removed and not same":  Keep("d/v", Remove("d/v"), CreateFile("d/v", other, 0o644)),
		"copied":                Keep("x", CreateFile("w", same, 0o644), Rename("w", "x")),
		"mode and back":         Steps(Chmod("v", 0o600), Chmod("v", 0o644)),
		"attribute":             Keep("v", SetXattr("v", "user.a", "2")),
		"attribute added":       Keep("x", SetXattr("x", "trusted.b", "2")),
		"attribute removed":     Keep("v", RemoveXattr("v", "user.a")),
		"access list":           Keep("x", SetXattr("x", "system.posix_acl_access", aclUser1)),
		"access list of a dir":  Keep("d", SetXattr("d", "system.posix_acl_default", aclUser1)),
		"owner":                 Keep("d/v", Chown("d/v", 5, 6)),
		"directory time":        SetTime("e/sub", whole.Add(time.Hour)),
		"made and removed":      Steps(CreateFile("e/sub/t", nil, 0o644), Remove("e/sub/t")),
		"link made":             Keep("v", Link("v", "v2")),
		"link made elsewhere":   Steps(Keep("e/sub/f", Link("e/sub/f", "f")), SetTime("e/sub", whole)),
		"one link more":         Keep("l1", Link("l1", "e/l4"), SetTime("e", whole)),
		"one link less":         Keep("l2", Remove("l2")),
		"links made others":     Keep("l2", Remove("l2"), Link("m1", "l2"), Remove("m2"), Link("l1", "m2")),
		"links made one":        Keep("x", Remove("x"), Link("e/sub/f", "x"), SetTime("e/sub", whole)),
		"link made a file":      Keep("l2", CreateFile("w", same, 0o644), Rename("w", "l2")),
		"link written":          Keep("l2", Overwrite("l2", 0, other)),
		"link attribute":        Keep("l2", SetXattr("l2", "user.l", "1")),
		"links and directory":   Keep("d", Move("d", "moved")),
		"target":                Keep("s", Remove("s"), Symlink("tegrat", "s")),
		"device":                Keep("c", Remove("c"), CharDevice("c", 0o600, 1, 5)),
		"fifo to file":          Keep("p", Remove("p"), CreateFile("p", nil, 0o600)),
		"file to fifo":          Keep("none", Remove("none"), Fifo("none", 0o600)),
		"file to directory":     Keep("v", Remove("v"), Mkdir("v", 0o755)),
		"directory made again": Keep("e/sub", Remove("e/sub/f"), Remove("e/sub"), Mkdir("e/sub", 0o755), CreateFile("e/sub/f", same, 0o644),
			SetTime("e/sub/f", whole)),
		"file made again": Keep("e", RemoveAll("e"), Mkdir("e", 0o755), Mkdir("e/sub", 0o755), CreateFile("e/sub/f", other, 0o644),
			SetTime("e/sub/f", whole), SetTime("e/sub", whole)),
	}
}

func touched(r *rig) {
	r.create("base", "")
	r.write("base", clamped())
	r.create("top", "base")
	r.write("top", Keep("d/v", Append("d/v", []byte("x")), CreateFile("d/v", []byte("1.2.3\n"), 0o644)))
	cases := touches()
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		layer := strings.ReplaceAll(name, " ", "-")
		r.create(layer, "top")
		r.write(layer, cases[name])
		r.faithful(layer, "top", name)
		r.remove(layer)
	}
}

// faithful fails the test unless the diff of a layer makes of its parent what the layer is, and Changes lists what is in the diff.
func (r *rig) faithful(layer, parent, what string) {
	r.t.Helper()
	want, diff := r.tree(layer), r.diff(layer, parent)
	changes := r.changes(layer, parent)
	listed := make([]string, 0, len(changes))
	for _, c := range changes {
		if c.Kind == backend.Deleted {
			c.Path = "D " + c.Path
		}
		listed = append(listed, c.Path)
	}
	packed, err := packedPaths(diff)
	assert.NilError(r.t, err)
	assert.DeepEqual(r.t, listed, packed)
	r.fill("copy of "+layer, parent, diff)
	r.same(rootless(want), rootless(r.tree("copy of "+layer)), what)
	r.remove("copy of " + layer)
}

// packedPaths lists what a tar changes: "/path", or "D /path" for what it deletes.
func packedPaths(text []byte) ([]string, error) {
	paths := []string{}
	for t := tar.NewReader(bytes.NewReader(text)); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return paths, nil
		}
		if err != nil {
			return nil, err
		}
		dir, base := path.Split(strings.TrimSuffix(h.Name, "/"))
		if name, deleted := strings.CutPrefix(base, ".wh."); deleted {
			paths = append(paths, "D /"+dir+name)
			continue
		}
		paths = append(paths, "/"+dir+base)
	}
}

// touchedAtRandom does several things to the same few files, in layers on top of each other.
func touchedAtRandom(r *rig) {
	rounds := 25
	if r.f.Slow {
		rounds = 6
	}
	rnd := newRand(77)
	r.create(chainName(0), "")
	r.write(chainName(0), clamped())
	for i := 1; i <= rounds; i++ {
		layer, parent := chainName(i), chainName(i-1)
		r.create(layer, parent)
		r.write(layer, atRandom(rnd, 12))
		r.faithful(layer, parent, fmt.Sprint("round ", i))
	}
}

// atRandom does n things to the files that are there, and keeps most times.
func atRandom(rnd *rand.Rand, n int) Step {
	return func(root string) error {
		for range n {
			var names []string
			err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
				if path != root {
					names = append(names, strings.TrimPrefix(path, root+"/"))
				}
				return err
			})
			if err != nil {
				return err
			}
			if len(names) == 0 {
				return clamped()(root)
			}
			a, b := names[rnd.IntN(len(names))], names[rnd.IntN(len(names))]
			if rnd.IntN(3) == 0 {
				b = path.Join(path.Dir(b), string(rune('m'+rnd.IntN(8))))
			}
			err = Keep(a, randomTouch(rnd, a, b))(root)
			if err != nil && !unfitting(err) {
				return err
			}
		}
		return nil
	}
}

// unfitting tells errors of steps that do not fit the files that they met.
func unfitting(err error) bool {
	for _, e := range []error{
		os.ErrNotExist, os.ErrExist, syscall.ENOTDIR, syscall.EISDIR, syscall.EPERM, syscall.ENOTEMPTY, syscall.EINVAL, syscall.ELOOP,
		syscall.EOPNOTSUPP, syscall.ENXIO, syscall.ENODATA, syscall.EXDEV, syscall.ENODEV, syscall.EBUSY, syscall.EACCES, syscall.EBADF, syscall.ESPIPE,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// regular applies a step only to a regular file or to none: a fifo would wait, a device swallow.
func regular(name string, step Step) Step {
	return func(root string) error {
		fi, err := os.Lstat(filepath.Join(root, name))
		if err == nil && !fi.Mode().IsRegular() {
			return nil
		}
		return step(root)
	}
}

// randomTouch does one thing to a, or to a and b.
func randomTouch(rnd *rand.Rand, a, b string) Step {
	text := []byte{"abc"[rnd.IntN(3)]}
	steps := []Step{
		regular(a, Overwrite(a, rnd.Int64N(6), text)), regular(a, CreateFile(a, append([]byte("1.2.3"), text...), 0o644)),
		regular(a, Steps(Truncate(a, 3), Truncate(a, 6))), regular(a, WriteMapped(a, 0, text)), regular(a, PunchHole(a, 0, 4096)),
		Steps(Chmod(a, 0o600), Chmod(a, 0o644)), Chmod(a, 0o700), Chown(a, rnd.IntN(2), 0),
		SetXattr(a, "user.r", string(text)), SetXattr(a, "trusted.r", string(text)), RemoveXattr(a, "user.r"), SetXattr(a, "system.posix_acl_access", aclUser1),
		Link(a, b), Link(a, b), Steps(Remove(b), Link(a, b)), Rename(a, b), Move(a, b), RemoveAll(a),
		Steps(regular(b+"+", CreateFile(b+"+", text, 0o644)), Rename(b+"+", a)), Steps(Remove(a), CreateFile(a, text, 0o644)),
		Steps(Remove(a), Symlink(string(text), a)), Steps(Remove(a), Fifo(a, 0o600)), Steps(Remove(a), CharDevice(a, 0o600, 1, 3+rnd.Uint32N(2))),
		Steps(RemoveAll(a), Mkdir(a, 0o755)), Mkdir(b, 0o755), regular(b+"n", CreateFile(b+"n", text, 0o644)),
		SetTime(path.Dir(b), whole.Add(time.Duration(rnd.IntN(2)))),
	}
	return steps[rnd.IntN(len(steps))]
}

// deeperThanPaths: what a container makes with relative names is deeper than any path can say.
func deeperThanPaths(r *rig) {
	const levels = 30 // of 200 bytes: PATH_MAX is 4096
	name := strings.Repeat("n", 200)
	read := func(want string) Step {
		return InDeep(name, levels, false, func(d *os.Root) error {
			text, err := d.ReadFile("file")
			if err == nil && string(text) != want {
				err = fmt.Errorf("the file at the bottom holds %q, not %q", text, want)
			}
			return err
		})
	}
	r.create("base", "")
	r.write("base", Deep(name, levels, "1.2.3"), CreateFile("f", nil, 0o644))
	r.create("l", "base")
	r.write("l", InDeep(name, levels, false, func(d *os.Root) error {
		fi, err := d.Stat("file")
		if err == nil {
			err = d.WriteFile("file", []byte("1.2.4"), 0o644)
		}
		if err == nil {
			err = d.Chtimes("file", fi.ModTime(), fi.ModTime())
		}
		return err
	}))
	changes := r.changes("l", "base")
	assert.Equal(r.t, len(changes), levels+1)
	for _, parent := range []string{"", "base"} {
		size, err := r.store.DiffSize(r.ctx(), "l", parent)
		assert.NilError(r.t, err)
		assert.Equal(r.t, size, int64(len("1.2.4")))
	}
	for _, parent := range []string{"", "base"} {
		r.fill("copy", parent, r.diff("l", parent))
		r.mounted("copy", func(dir string) { assert.NilError(r.t, read("1.2.4")(dir)) })
		r.remove("copy")
	}
	r.create("gone", "l")
	r.write("gone", InDeep(name, levels-1, false, func(d *os.Root) error { return d.RemoveAll(name) }))
	r.fill("copy", "l", r.diff("gone", "l"))
	assert.Equal(r.t, len(r.changes("copy", "gone")), 0)
}

// deepTakesLittle: whoever walks a deep tree, it takes no more descriptors or memory than another.
func deepTakesLittle(r *rig) {
	const levels = 5000
	name := strings.Repeat("n", 250)
	Frugal(r.t, func(*testing.T) string { return r.dir }, func(*testing.T, string) {
		r.create("base", "")
		r.write("base", Deep(name, levels, "x"))
		base := r.usage("base")
		assert.Assert(r.t, base.Inodes >= levels+2 || base.Inodes == 0, "%d inodes", base.Inodes) // 0: the backend counts bytes only
		r.create("l", "base")
		r.mounted("l", func(dir string) {
			assert.NilError(r.t, InDeep(name, levels, false, func(d *os.Root) error {
				_, err := d.Stat("file")
				return err
			})(dir))
		})
		r.usage("l")
		assert.NilError(r.t, canDo(r.store.SetIDMap(r.ctx(), "l", shifted(100000))))
		assert.NilError(r.t, canDo(r.store.SetLimit(r.ctx(), "l", 1<<30)))
		r.remove("l")
		r.remove("base")
	})
}

// socketInstead: a tar holds no socket, but what the socket has replaced is gone.
func socketInstead(r *rig) {
	r.create("base", "")
	r.write("base", CreateFile("f", []byte("x"), 0o644))
	r.create("l", "base")
	r.write("l", Remove("f"), Socket("f", 0o600), Socket("new", 0o600))
	r.fill("copy", "base", r.diff("l", "base"))
	assert.Equal(r.t, len(r.tree("copy")), 1)
}

// ownerOutside: who has no place in the container's map cannot be written down; the file is named, not left out.
func ownerOutside(r *rig) {
	assert.NilError(r.t, r.createWith("base", "", store.CreateOptions{IDMap: shifted(100000)}))
	r.write("base", MkdirAll("d/kept"), Chown("d", 100000, 100000), Chown("d/kept", 100000, 100000))
	assert.NilError(r.t, r.createWith("l", "base", store.CreateOptions{IDMap: shifted(100000)}))
	placer, ok := r.back.(backend.Placer)
	if !ok {
		r.mounted("l", func(dir string) { assert.NilError(r.t, outside(dir)) })
	} else {
		p, err := placer.Place(r.ctx(), r.layer("l"))
		assert.NilError(r.t, err)
		assert.NilError(r.t, outside(p.Dir))
	}
	assert.Assert(r.t, slices.Contains(r.changes("l", "base"), backend.Change{Path: "/outside", Kind: backend.Added}))
	var out bytes.Buffer
	err := r.store.Diff(r.ctx(), "l", "base", &out)
	assert.ErrorContains(r.t, err, "outside")
}

func outside(dir string) error {
	return Steps(CreateFile("outside", nil, 0o644), Chown("outside", 5, 5))(dir)
}
