package overlay_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/backendtest"
	"strata/backend/internal/idmap"
	"strata/backend/internal/mount"
	"strata/backend/internal/quota/quotatest"
	"strata/backend/internal/tree"
	"strata/backend/overlay"
)

// TestDeepOddPaths holds that as many layers as an image can have work in a store whose path has what
// mount options give a meaning to.
func TestDeepOddPaths(t *testing.T) {
	onEach(t, func(t *testing.T, dir string) {
		for name, via := range map[string]mount.Mounter{"descriptors": {}, "classic": {Classic: true}} {
			t.Run(name, func(t *testing.T) {
				odd := filepath.Join(dir, name+" "+strings.Repeat(`:,\`, 36))
				assert.NilError(t, os.Mkdir(odd, 0o700))
				r := newRig(t, odd)
				r.via = via
				var l *backend.Layer
				for i := range 125 {
					id := fmt.Sprintf("%064d", i)
					l = r.layer(id, l, nil)
					assert.NilError(t, os.WriteFile(r.upper(l, fmt.Sprint(i)), []byte(id), 0o644))
					assert.NilError(t, os.WriteFile(r.upper(l, "top"), []byte(id), 0o644))
				}
				for _, readOnly := range []bool{false, true} {
					r.with(l, backend.MountOptions{ReadOnly: readOnly}, func(m string) {
						for i := range 125 {
							assert.Equal(t, content(t, filepath.Join(m, fmt.Sprint(i))), fmt.Sprintf("%064d", i))
						}
						assert.Equal(t, content(t, filepath.Join(m, "top")), l.ID)
						err := os.Remove(filepath.Join(m, "7"))
						assert.Equal(t, errors.Is(err, unix.EROFS), readOnly, "%v", err)
					})
					err := os.Remove(r.upper(l, "7"))
					assert.Equal(t, err == nil, !readOnly)
				}
			})
		}
	})
}

func TestTooDeep(t *testing.T) {
	r := newRig(t, loop(t, "tmpfs"))
	err := r.back.Create(t.Context(), backend.Layer{ID: "a", Parents: make([]backend.Parent, 500)})
	assert.Assert(t, errdefs.IsInvalidArgument(err), "%v", err)
}

// TestMountOptions holds what is told to the kernel.
func TestMountOptions(t *testing.T) {
	r := newRig(t, loop(t, "tmpfs"))
	base := r.layer("base", nil, nil)
	top := r.layer("top", base, nil)
	d := func(id, name string) string { return filepath.Join(r.env.Home, id, name) }
	common := []string{"redirect_dir=nofollow", "metacopy=off", "index=off"}
	with := func(words ...[]string) (all []string) {
		for _, w := range words {
			all = append(all, w...)
		}
		return all
	}
	label := "system_u:object_r:container_file_t:s0:c1,c2"
	for name, c := range map[string]struct {
		layer   *backend.Layer
		options backend.MountOptions
		want    backend.Mount
	}{
		"base":           {base, backend.MountOptions{}, backend.Mount{Type: "bind", Source: d("base", "diff")}},
		"base read-only": {base, backend.MountOptions{ReadOnly: true}, backend.Mount{Type: "bind", Source: d("base", "diff"), Options: []string{"ro"}}},
		"base with label": {base, backend.MountOptions{Label: label}, backend.Mount{Type: "overlay", Source: "overlay", Options: with(
			[]string{"lowerdir+=" + d(".empty", ""), "upperdir=" + d("base", "diff"), "workdir=" + d("base", "work")}, common, []string{"context=" + label})}},
		"base read-only with label": {base, backend.MountOptions{Label: label, ReadOnly: true}, backend.Mount{Type: "overlay", Source: "overlay", Options: with(
			[]string{"lowerdir+=" + d("base", "diff"), "lowerdir+=" + d(".empty", ""), "ro"}, common, []string{"context=" + label})}},
		"child": {top, backend.MountOptions{}, backend.Mount{Type: "overlay", Source: "overlay", Options: with(
			[]string{"lowerdir+=" + d("base", "diff"), "upperdir=" + d("top", "diff"), "workdir=" + d("top", "work")}, common)}},
		"child read-only": {top, backend.MountOptions{ReadOnly: true}, backend.Mount{Type: "overlay", Source: "overlay", Options: with(
			[]string{"lowerdir+=" + d("top", "diff"), "lowerdir+=" + d("base", "diff"), "ro"}, common)}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := r.back.Mounts(t.Context(), *c.layer, c.options)
			assert.NilError(t, err)
			assert.DeepEqual(t, got, []backend.Mount{c.want})
		})
	}
}

// TestRoot holds that a layer's root looks like its parent's.
func TestRoot(t *testing.T) {
	r := newRig(t, loop(t, "ext4"))
	base := r.layer("base", nil, func(dir string) error {
		return errors.Join(os.Chmod(dir, 0o751), os.Chown(dir, 5, 6), unix.Lsetxattr(dir, "user.mine", []byte("1"), 0))
	})
	assert.NilError(t, unix.Lsetxattr(r.upper(base, ""), "trusted.overlay.opaque", []byte("y"), 0))
	top := r.layer("top", base, nil)
	dir := r.upper(top, "")
	fi, err := os.Stat(dir)
	assert.NilError(t, err)
	assert.Equal(t, fi.Mode(), os.ModeDir|0o751)
	assert.Equal(t, owner(t, dir), "5:6")
	names := make([]byte, 100)
	n, err := unix.Llistxattr(dir, names)
	assert.NilError(t, err)
	assert.Equal(t, string(names[:n]), "user.mine\x00")
	changes, err := r.changes(top)
	assert.NilError(t, err)
	assert.Equal(t, len(changes), 0)
}

// TestStores holds that parents are found in read-only stores, which are not written to.
func TestStores(t *testing.T) {
	dir := loop(t, "ext4")
	other := newRig(t, filepath.Join(dir, "other"))
	base := other.layer("base", nil, backendtest.CreateFile("a", []byte("there"), 0o644))
	middle := other.layer("middle", base, backendtest.CreateFile("b", []byte("there"), 0o644))

	r := newRig(t, filepath.Join(dir, "own"))
	r.env.Stores = []string{other.env.Home}
	r.open()
	top := r.layer("top", middle, backendtest.Steps(backendtest.Remove("a"), backendtest.CreateFile("c", nil, 0o644)))
	changes, err := r.changes(top)
	assert.NilError(t, err)
	assert.DeepEqual(t, changes, []string{"D /a", "A /c"})
	_, err = r.back.Mounts(t.Context(), *middle, backend.MountOptions{})
	assert.Assert(t, errdefs.IsFailedPrecondition(err), "%v", err)
	r.with(middle, backend.MountOptions{ReadOnly: true}, func(m string) { assert.Equal(t, content(t, filepath.Join(m, "a")), "there") })
	lister, ok := r.back.(backend.Lister)
	assert.Assert(t, ok)
	ids, err := lister.List(t.Context())
	assert.NilError(t, err)
	assert.DeepEqual(t, ids, []string{"top"})
	_, err = r.back.Mounts(t.Context(), backend.Layer{ID: "missing"}, backend.MountOptions{})
	assert.Assert(t, errdefs.IsNotFound(err), "%v", err)
}

func TestLimit(t *testing.T) {
	for _, fs := range []string{"ext4", "xfs"} {
		t.Run(fs, func(t *testing.T) { testLimit(t, newRig(t, quotatest.FS(t, fs))) })
	}
}

func testLimit(t *testing.T, r *rig) {
	t.Helper()
	base := r.layer("base", nil, backendtest.CreateFile("big", bytes.Repeat([]byte("x"), 3<<20), 0o644))
	l := backend.Layer{ID: "limited", Parents: []backend.Parent{{ID: "base"}}, Limit: 2 << 20}
	assert.NilError(t, r.back.Create(t.Context(), l))
	fill := func(m, name string, size int) error {
		return os.WriteFile(filepath.Join(m, name), bytes.Repeat([]byte("y"), size), 0o644)
	}
	full := func(err error) bool { return errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.ENOSPC) }
	r.with(&l, backend.MountOptions{}, func(m string) {
		assert.NilError(t, fill(m, "a", 1<<20))
		err := fill(m, "b", 4<<20)
		assert.Assert(t, full(err), "%v", err)
		err = os.Truncate(filepath.Join(m, "big"), 1) // copies up less than the limit allows
		assert.Assert(t, err == nil || full(err), "%v", err)
		assert.NilError(t, os.Remove(filepath.Join(m, "b")))
		limiter, ok := r.back.(backend.Limiter)
		assert.Assert(t, ok)
		assert.NilError(t, limiter.SetLimit(t.Context(), l, 8<<20))
		assert.NilError(t, fill(m, "b", 4<<20))
		assert.NilError(t, os.Rename(filepath.Join(m, "b"), filepath.Join(m, "c")))
	})
	free := r.layer("free", base, nil)
	r.with(free, backend.MountOptions{}, func(m string) { assert.NilError(t, fill(m, "a", 10<<20)) })
	limiter, ok := r.back.(backend.Limiter)
	assert.Assert(t, ok)
	assert.NilError(t, limiter.SetLimit(t.Context(), *free, 11<<20))
	r.with(free, backend.MountOptions{}, func(m string) {
		err := fill(m, "b", 2<<20)
		assert.Assert(t, full(err), "%v", err)
	})
	assert.NilError(t, r.back.Remove(t.Context(), l))
	assert.NilError(t, r.back.Remove(t.Context(), *free))
}

// TestNoLimit holds that a limit that cannot be kept is refused, with what to do.
func TestNoLimit(t *testing.T) {
	onEach(t, func(t *testing.T, dir string) {
		r := newRig(t, dir)
		err := r.back.Create(t.Context(), backend.Layer{ID: "limited", Limit: 1 << 20})
		assert.Assert(t, errdefs.IsNotImplemented(err), "%v", err)
		assert.ErrorContains(t, err, "size limits need")
	})
}

func TestIDMaps(t *testing.T) {
	m := func(host uint32) *backend.IDMap {
		r := []backend.IDRange{{Container: 0, Host: host, Size: 65536}}
		return &backend.IDMap{UIDs: r, GIDs: r}
	}
	onEach(t, func(t *testing.T, dir string) {
		r := newRig(t, dir)
		base := r.layer("base", nil, backendtest.Steps(
			backendtest.CreateFile("a", []byte("a"), 0o644), backendtest.Chown("a", 3, 4),
			backendtest.CreateFile("b", []byte("b"), 0o644), backendtest.Mkdir("dir", 0o755)))
		middle := r.layer("middle", base, nil)
		middle.IDMap = m(100000)
		create := func(l *backend.Layer) { // as the store does it
			mapper, ok := r.back.(backend.IDMapper)
			assert.Assert(t, ok)
			assert.NilError(t, r.back.Create(t.Context(), *l))
			assert.NilError(t, mapper.MapIDs(t.Context(), *l))
			assert.NilError(t, idmap.Chown(t.Context(), r.upper(l, ""), l.Parents[0].IDMap, l.IDMap))
		}
		create(middle)
		r.with(middle, backend.MountOptions{}, func(dir string) {
			assert.Equal(t, owner(t, dir), "100000:100000")
			assert.Equal(t, owner(t, dir+"/a"), "100003:100004")
			assert.NilError(t, os.WriteFile(dir+"/b", []byte("changed"), 0o644))
			assert.NilError(t, os.Lchown(dir+"/dir", 100001, 100001))
			assert.NilError(t, os.WriteFile(dir+"/own", nil, 0o644))
			assert.NilError(t, os.Lchown(dir+"/own", 100009, 100009))
		})
		changes, err := r.changes(middle)
		assert.NilError(t, err)
		assert.DeepEqual(t, changes, []string{"C /b", "C /dir", "A /own"})

		top := &backend.Layer{ID: "top", IDMap: m(200000), Parents: []backend.Parent{{ID: "middle", IDMap: m(100000)}, {ID: "base"}}}
		create(top)
		for _, readOnly := range []bool{false, true} {
			r.with(top, backend.MountOptions{ReadOnly: readOnly}, func(dir string) {
				for name, want := range map[string]string{"": "200000:200000", "a": "200003:200004", "b": "200000:200000", "dir": "200001:200001", "own": "200009:200009"} {
					assert.Equal(t, owner(t, filepath.Join(dir, name)), want, name)
				}
			})
		}
		changes, err = r.changes(top)
		assert.NilError(t, err)
		assert.Equal(t, len(changes), 0)

		again := &backend.Layer{ID: "again", IDMap: middle.IDMap, Parents: middle.Parents}
		cloner, ok := r.back.(backend.Cloner)
		assert.Assert(t, ok)
		assert.NilError(t, cloner.Clone(t.Context(), *again, *middle))
		compareTrees(t, r, middle, again)
	})
}

func TestClone(t *testing.T) {
	onEach(t, func(t *testing.T, dir string) {
		r := newRig(t, dir)
		base := r.layer("base", nil, backendtest.Steps(backendtest.CreateFile("gone", nil, 0o644), backendtest.MkdirAll("dir/sub")))
		template := r.layer("template", base, backendtest.Steps(
			backendtest.Remove("gone"), backendtest.Replace("dir", 0o700), backendtest.CreateFile("new", []byte("x"), 0o600)))
		l := &backend.Layer{ID: "copy", Parents: template.Parents}
		cloner, ok := r.back.(backend.Cloner)
		assert.Assert(t, ok)
		assert.NilError(t, cloner.Clone(t.Context(), *l, *template))
		want, err := r.changes(template)
		assert.NilError(t, err)
		assert.DeepEqual(t, want, []string{"C /dir", "D /dir/sub", "D /gone", "A /new"})
		got, err := r.changes(l)
		assert.NilError(t, err)
		assert.DeepEqual(t, got, want)
		compareTrees(t, r, template, l)
	})
}

func compareTrees(t *testing.T, r *rig, a, b *backend.Layer) {
	t.Helper()
	var trees []backendtest.Tree
	for _, l := range []*backend.Layer{a, b} {
		r.with(l, backend.MountOptions{ReadOnly: true}, func(dir string) {
			tree, err := backendtest.ReadTree(dir)
			assert.NilError(t, err)
			trees = append(trees, tree)
		})
	}
	assert.Equal(t, backendtest.Diff(trees[0], trees[1]), "")
}

func TestCheck(t *testing.T) {
	r := newRig(t, loop(t, "tmpfs"))
	l := r.layer("layer", nil, nil)
	checker, ok := r.back.(backend.Checker)
	assert.Assert(t, ok)
	assert.NilError(t, checker.Check(t.Context(), *l, false))
	assert.NilError(t, os.RemoveAll(filepath.Join(r.env.Home, "layer/work")))
	assert.ErrorContains(t, checker.Check(t.Context(), *l, false), "work")
	assert.NilError(t, checker.Check(t.Context(), *l, true))
	assert.NilError(t, checker.Check(t.Context(), *l, false))
	assert.NilError(t, os.RemoveAll(filepath.Join(r.env.Home, "layer/diff")))
	assert.Assert(t, errdefs.IsNotFound(checker.Check(t.Context(), *l, true)))
	assert.NilError(t, os.WriteFile(filepath.Join(r.env.Home, "layer/diff"), nil, 0o600))
	assert.Assert(t, errdefs.IsDataLoss(checker.Check(t.Context(), *l, true)))
}

// TestForeign holds that what a mount with other options wrote is not misread.
func TestForeign(t *testing.T) {
	cases := map[string]struct {
		options string
		do      func(dir string) error
	}{
		"redirect": {"redirect_dir=on", backendtest.Rename("dir", "moved")},
		"metacopy": {"metacopy=on", backendtest.Chmod("file", 0o600)},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, loop(t, "ext4"))
			base := r.layer("base", nil, backendtest.Steps(
				backendtest.MkdirAll("dir/sub"), backendtest.CreateFile("file", []byte("x"), 0o644)))
			l := r.layer("top", base, nil)
			r.with(l, backend.MountOptions{ReadOnly: true}, func(string) {})
			dir := filepath.Join(r.dir, "foreign")
			assert.NilError(t, os.Mkdir(dir, 0o700))
			home := r.env.Home
			text := fmt.Sprintf("lowerdir=%s/base/diff,upperdir=%s/top/diff,workdir=%s/top/work,%s", home, home, home, c.options)
			assert.NilError(t, unix.Mount("overlay", dir, "overlay", 0, text))
			err := c.do(dir)
			assert.NilError(t, mount.Unmount(context.Background(), dir))
			assert.NilError(t, err)
			changer, ok := r.back.(backend.Changer)
			assert.Assert(t, ok)
			n := 0
			for _, err := range changer.Changes(t.Context(), *l) {
				assert.Assert(t, errdefs.IsNotImplemented(err), "%v", err)
				n++
			}
			assert.Equal(t, n, 1, "the error comes before the first change")
		})
	}
}

// TestRefusal holds that a file system that overlay cannot use is refused with what to do about it.
func TestRefusal(t *testing.T) {
	dir := loop(t, "tmpfs")
	r := newRig(t, dir)
	base := r.layer("base", nil, nil)
	top := r.layer("top", base, nil)
	r.with(top, backend.MountOptions{}, func(m string) {
		home := filepath.Join(m, "home")
		assert.NilError(t, os.Mkdir(home, 0o700))
		_, err := overlay.New(t.Context(), backend.Env{Home: home}, overlay.NewConfig())
		assert.Assert(t, errdefs.IsNotImplemented(err), "%v", err)
		assert.ErrorContains(t, err, "vfs")
		assert.Assert(t, strings.HasPrefix(err.Error(), home+" lies on an overlay"), "%v", err)
		entries, err := os.ReadDir(home)
		assert.NilError(t, err)
		assert.Equal(t, len(entries), 0, "probes clean up")
	})
}

// TestReadOnly holds that a store is read where nothing can be tried, with the options that it has elsewhere.
func TestReadOnly(t *testing.T) {
	options := func(env backend.Env) string {
		b, err := overlay.New(t.Context(), env, overlay.NewConfig())
		assert.NilError(t, err)
		reporter, ok := b.(backend.Reporter)
		assert.Assert(t, ok)
		fields, err := reporter.Report(t.Context())
		assert.NilError(t, err)
		assert.NilError(t, b.(io.Closer).Close())
		i := slices.IndexFunc(fields, func(f backend.Field) bool { return f.Name == "Mount options" })
		return fields[i].Value
	}
	r := newRig(t, loop(t, "ext4"))
	before := options(r.env)
	assert.NilError(t, unix.Mount(r.env.Home, r.env.Home, "", unix.MS_BIND, ""))
	defer func() { assert.NilError(t, unix.Unmount(r.env.Home, 0)) }()
	assert.NilError(t, unix.Mount("", r.env.Home, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
	assert.Equal(t, options(r.env), before)
}

func TestConfig(t *testing.T) {
	dir := loop(t, "tmpfs")
	for word, fine := range map[string]bool{
		"nodev": true, "noatime": true, "xino=off": true, "nodev=1": false, "index=on": false,
		"upperdir=/": false, "volatile": false, "context=x": false, "nonsense": false, "": false,
	} {
		b, err := overlay.New(t.Context(), backend.Env{Home: dir}, &overlay.Config{MountOpt: []string{word}})
		if fine {
			assert.NilError(t, err)
			c, ok := b.(io.Closer)
			assert.Assert(t, ok)
			assert.NilError(t, c.Close())
			continue
		}
		assert.Assert(t, errdefs.IsInvalidArgument(err), "%q: %v", word, err)
	}
}

// TestUsage holds that only the layer itself is counted.
func TestUsage(t *testing.T) {
	r := newRig(t, loop(t, "ext4"))
	base := r.layer("base", nil, backendtest.CreateFile("big", bytes.Repeat([]byte("x"), 1<<20), 0o644))
	l := r.layer("top", base, backendtest.CreateFile("small", bytes.Repeat([]byte("x"), 4096), 0o644))
	placer, ok := r.back.(backend.Placer)
	assert.Assert(t, ok)
	place, err := placer.Place(t.Context(), *l)
	assert.NilError(t, err)
	u, err := tree.Usage(t.Context(), place.Dir)
	assert.NilError(t, err)
	assert.Assert(t, u.Size >= 4096 && u.Size < 64<<10, "%d", u.Size)
	assert.Equal(t, u.Inodes, int64(2))
}

func TestReport(t *testing.T) {
	r := newRig(t, loop(t, "xfs"))
	reporter, ok := r.back.(backend.Reporter)
	assert.Assert(t, ok)
	fields, err := reporter.Report(t.Context())
	assert.NilError(t, err)
	values := map[string]string{}
	for _, f := range fields {
		values[f.Name] = f.Value
	}
	for name, want := range map[string]string{
		"Backing Filesystem": "xfs", "Supports d_type": "true", "userxattr": "false", "Reflinks": "true", "Size limits": "false",
	} {
		assert.Equal(t, values[name], want, name)
	}
}
