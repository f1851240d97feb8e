package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend"
)

// scratch returns a directory on a fresh private tmpfs. The test fails if it leaves mounts there.
func scratch(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts file systems")
	}
	dir := t.TempDir()
	assert.NilError(t, unix.Mount("scratch", dir, "tmpfs", 0, "mode=0755"))
	assert.NilError(t, unix.Mount("", dir, "", unix.MS_PRIVATE, ""))
	t.Cleanup(func() {
		left, err := Below(dir)
		assert.Check(t, err)
		for _, m := range left {
			if m.Target != dir {
				t.Errorf("mount left behind: %s", m.Target)
			}
		}
		assert.Check(t, unix.Unmount(dir, unix.MNT_DETACH))
	})
	return dir
}

// mkdirs makes directories below dir and returns their paths.
func mkdirs(t *testing.T, dir string, names ...string) []string {
	t.Helper()
	var paths []string
	for _, n := range names {
		p := filepath.Join(dir, n)
		assert.NilError(t, os.MkdirAll(p, 0o755))
		paths = append(paths, p)
	}
	return paths
}

func write(t *testing.T, path, content string) {
	t.Helper()
	assert.NilError(t, os.WriteFile(path, []byte(content), 0o644))
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	assert.NilError(t, err)
	return string(b)
}

func unmount(t *testing.T, target string) {
	t.Helper()
	assert.NilError(t, Unmount(context.Background(), target))
}

// eachWay runs a test with both families of system calls.
func eachWay(t *testing.T, f func(t *testing.T, m Mounter)) {
	t.Run("descriptors", func(t *testing.T) { f(t, Mounter{}) })
	t.Run("classic", func(t *testing.T) { f(t, Mounter{Classic: true}) })
}

func TestBind(t *testing.T) {
	eachWay(t, func(t *testing.T, m Mounter) {
		dir := scratch(t)
		d := mkdirs(t, dir, "source", "source/sub", "target")
		source, sub, target := d[0], d[1], d[2]
		assert.NilError(t, m.Mount(t.Context(), []backend.Mount{{Type: "tmpfs", Source: "sub"}}, sub))
		write(t, filepath.Join(sub, "hidden"), "")
		bind := []backend.Mount{{Type: "bind", Source: source, Options: []string{"ro", "nosuid"}}}
		assert.NilError(t, m.Mount(t.Context(), bind, target))
		_, err := os.Stat(filepath.Join(target, "sub/hidden"))
		assert.ErrorIs(t, err, os.ErrNotExist, "a bind is not recursive")
		err = os.WriteFile(filepath.Join(target, "new"), nil, 0o600)
		assert.ErrorIs(t, err, unix.EROFS)
		write(t, filepath.Join(source, "new"), "through the source")
		assert.Equal(t, read(t, filepath.Join(target, "new")), "through the source")
		below, err := Below(target)
		assert.NilError(t, err)
		assert.Equal(t, len(below), 1)
		assert.Assert(t, strings.HasPrefix(below[0].Options, "ro,nosuid"), below[0].Options)
		unmount(t, target)
		unmount(t, sub)
	})
}

// TestBindKeepsProperties holds that a remount of a bind does not drop its source's properties.
func TestBindKeepsProperties(t *testing.T) {
	eachWay(t, func(t *testing.T, m Mounter) {
		dir := scratch(t)
		d := mkdirs(t, dir, "source", "target")
		tmpfs := backend.Mount{Type: "tmpfs", Source: "x", Options: []string{"nodev", "noexec", "noatime", "nosymfollow", "size=1m"}}
		assert.NilError(t, m.Mount(t.Context(), []backend.Mount{tmpfs}, d[0]))
		bind := backend.Mount{Type: "bind", Source: d[0], Options: []string{"ro", "exec"}}
		assert.NilError(t, m.Mount(t.Context(), []backend.Mount{bind}, d[1]))
		below, err := Below(d[1])
		assert.NilError(t, err)
		assert.Equal(t, below[0].Options, "ro,nodev,noatime,nosymfollow")
		unmount(t, d[1])
		unmount(t, d[0])
	})
}

func TestStack(t *testing.T) {
	eachWay(t, func(t *testing.T, m Mounter) {
		dir := scratch(t)
		target := mkdirs(t, dir, "target")[0]
		both := []backend.Mount{
			{Type: "tmpfs", Source: "first"},
			{Type: "tmpfs", Source: "second", Options: []string{"ro"}},
		}
		assert.NilError(t, m.Mount(t.Context(), both, target))
		below, err := Below(target)
		assert.NilError(t, err)
		assert.Equal(t, len(below), 2)
		assert.Equal(t, below[0].Source, "second")
		assert.Equal(t, below[1].Source, "first")
		unmount(t, target)
		mounted, err := Mounted(target)
		assert.NilError(t, err)
		assert.Equal(t, mounted, false)

		both[1].Options = []string{"no-such-option"}
		err = m.Mount(t.Context(), both, target)
		assert.ErrorContains(t, err, target)
		mounted, err = Mounted(target)
		assert.NilError(t, err)
		assert.Equal(t, mounted, false, "the first mount is undone when the second fails")
	})
}

func TestUnmountNothing(t *testing.T) {
	dir := scratch(t)
	d := mkdirs(t, dir, "plain")
	assert.NilError(t, os.Symlink(dir, filepath.Join(dir, "link")))
	for _, target := range []string{d[0], filepath.Join(dir, "missing"), filepath.Join(dir, "missing/below"), filepath.Join(dir, "link")} {
		assert.NilError(t, Unmount(t.Context(), target))
	}
	mounted, err := Mounted(dir)
	assert.NilError(t, err)
	assert.Equal(t, mounted, true, "a symbolic link is not followed")
}

func TestUnmountBusy(t *testing.T) {
	dir := scratch(t)
	target := mkdirs(t, dir, "target")[0]
	assert.NilError(t, Mount(t.Context(), []backend.Mount{{Type: "tmpfs", Source: "x"}}, target))
	f, err := os.Create(filepath.Join(target, "open"))
	assert.NilError(t, err)
	defer f.Close()
	assert.NilError(t, Unmount(t.Context(), target))
	mounted, err := Mounted(target)
	assert.NilError(t, err)
	assert.Equal(t, mounted, false)
	_, err = f.WriteString("still there for its user")
	assert.NilError(t, err)
}

func TestCancelled(t *testing.T) {
	dir := scratch(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := Mount(ctx, []backend.Mount{{Type: "tmpfs", Source: "x"}}, dir)
	assert.ErrorIs(t, err, context.Canceled)
}

func TestBelow(t *testing.T) {
	dir := scratch(t)
	d := mkdirs(t, dir, "a", "a-longer", "a/b", "a/b/c")
	for _, target := range []string{d[1], d[2], filepath.Join(d[0], "b/deep")} {
		assert.NilError(t, os.MkdirAll(target, 0o755))
		assert.NilError(t, Mount(t.Context(), []backend.Mount{{Type: "tmpfs", Source: "x"}}, target))
	}
	link := filepath.Join(dir, "link")
	assert.NilError(t, os.Symlink("a", link))
	below, err := Below(link)
	assert.NilError(t, err)
	var targets []string
	for _, m := range below {
		targets = append(targets, m.Target)
		defer unmount(t, m.Target)
	}
	assert.DeepEqual(t, targets, []string{filepath.Join(link, "b/deep"), filepath.Join(link, "b")})
	unmount(t, d[1])
	none, err := Below(filepath.Join(dir, "missing"))
	assert.NilError(t, err)
	assert.Equal(t, len(none), 0)
}

// TestPropagation holds that a mount follows its parent, and that a bind never follows its source.
func TestPropagation(t *testing.T) {
	dir := scratch(t)
	d := mkdirs(t, dir, "source", "target", "private", "peer")
	seen := func(dir string, want bool, why string) {
		t.Helper()
		got, err := Seen(dir)
		assert.NilError(t, err)
		assert.Equal(t, got, want, why)
	}
	seen(d[0], false, "a private mount")
	assert.NilError(t, unix.Mount("", dir, "", unix.MS_SHARED, ""))
	seen(d[0], false, "a shared mount without peers")
	assert.NilError(t, unix.Mount(dir, d[3], "", unix.MS_BIND, ""))
	seen(d[0], true, "a peer")
	assert.NilError(t, unix.Mount("", d[3], "", unix.MS_SLAVE, ""))
	seen(d[0], false, "nothing but a slave")
	unmount(t, d[3])
	seen(d[0], false, "the peer is gone, and the table says shared as before")

	mkdirs(t, dir, "source/sub")
	assert.NilError(t, Mount(t.Context(), []backend.Mount{{Type: "bind", Source: d[0]}}, d[1]))
	inner := filepath.Join(d[1], "sub")
	assert.NilError(t, Mount(t.Context(), []backend.Mount{{Type: "tmpfs", Source: "x"}}, inner))
	mounted, err := Mounted(filepath.Join(d[0], "sub"))
	assert.NilError(t, err)
	assert.Equal(t, mounted, false, "a mount in a bind does not appear in its source")
	unmount(t, inner)
	unmount(t, d[1])

	assert.NilError(t, Bind(t.Context(), d[0], d[2], true))
	seen(d[2], false, "a private bind")
	unmount(t, d[2])
	left, err := filepath.Glob(dir + "/*/.seen-*")
	assert.NilError(t, err)
	assert.Equal(t, len(left), 0, "%q", left)
	assert.NilError(t, unix.Mount("", dir, "", unix.MS_PRIVATE, ""))
}

func TestErrors(t *testing.T) {
	dir := scratch(t)
	d := mkdirs(t, dir, "a", "upper", "target")
	cases := map[string]struct {
		mount backend.Mount
		class error
		text  string
	}{
		"no such file system": {backend.Mount{Type: "nosuchfs"}, errdefs.ErrNotImplemented, "nosuchfs"},
		"no lowers":           {backend.Mount{Type: "overlay"}, errdefs.ErrInvalidArgument, "lower"},
		"list of lowers":      {backend.Mount{Type: "overlay", Options: []string{"lowerdir=/a:/b"}}, errdefs.ErrInvalidArgument, "lowerdir+"},
		"option of a bind":    {backend.Mount{Type: "bind", Source: dir, Options: []string{"size=1"}}, errdefs.ErrInvalidArgument, "size=1"},
		"zero byte":           {backend.Mount{Type: "tmpfs", Options: []string{"a\x00b"}}, errdefs.ErrInvalidArgument, "zero"},
		"id map first":        {backend.Mount{Type: "overlay", Options: []string{"X-mount.idmap=b:0:1:1"}}, errdefs.ErrInvalidArgument, "before"},
		"no type":             {backend.Mount{Source: dir}, errdefs.ErrInvalidArgument, "type"},
		"missing source":      {backend.Mount{Type: "bind", Source: dir + "/missing"}, os.ErrNotExist, "missing"},
		"missing lower":       {backend.Mount{Type: "overlay", Options: []string{"lowerdir+=" + d[0], "lowerdir+=" + dir + "/missing"}}, os.ErrNotExist, "missing"},
		"the kernel's reason": {backend.Mount{Type: "tmpfs", Options: []string{"size=wide"}}, unix.EINVAL, "Bad value for 'size'"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			err := Mount(t.Context(), []backend.Mount{c.mount}, d[2])
			assert.ErrorContains(t, err, c.text)
			assert.Assert(t, errors.Is(err, c.class), "%v is not %v", err, c.class)
		})
	}
}

func overlayOf(lowers []string, more ...string) []backend.Mount {
	var options []string
	for _, l := range lowers {
		options = append(options, "lowerdir+="+l)
	}
	return []backend.Mount{{Type: "overlay", Source: "overlay", Options: append(options, more...)}}
}

func TestOverlayOddNames(t *testing.T) {
	for _, name := range []string{"plain", "col:on", "com,ma", `back\slash`, `all\:,\\ of"it'`, "long" + strings.Repeat("-0123456789", 30)} {
		t.Run(name[:min(len(name), 20)], func(t *testing.T) {
			eachWay(t, func(t *testing.T, m Mounter) {
				dir := scratch(t)
				in := filepath.Join(dir, name[:min(len(name), 200)], name[min(len(name), 200):])
				d := mkdirs(t, in, "low:er", "low,er2", "upper", "work")
				target := mkdirs(t, dir, "target")[0]
				write(t, filepath.Join(d[0], "a"), "first")
				write(t, filepath.Join(d[1], "a"), "second")
				write(t, filepath.Join(d[1], "b"), "second")
				mounts := overlayOf(d[:2], "upperdir="+d[2], "workdir="+d[3], "index=off")
				assert.NilError(t, m.Mount(t.Context(), mounts, target))
				assert.Equal(t, read(t, filepath.Join(target, "a")), "first")
				assert.Equal(t, read(t, filepath.Join(target, "b")), "second")
				write(t, filepath.Join(target, "c"), "above")
				assert.Equal(t, read(t, filepath.Join(d[2], "c")), "above")
				unmount(t, target)
			})
		})
	}
}

// TestOverlayDeep stacks as many directories as an image can have layers, with names that are far
// longer than mount(2)'s page.
func TestOverlayDeep(t *testing.T) {
	for _, depth := range []int{125, 499} {
		t.Run(fmt.Sprint(depth), func(t *testing.T) {
			eachWay(t, func(t *testing.T, m Mounter) {
				dir := scratch(t)
				in := filepath.Join(dir, strings.Repeat("a:b,c", 24))
				var lowers []string
				for i := range depth {
					d := mkdirs(t, in, fmt.Sprintf("%064d/diff", i))[0]
					write(t, filepath.Join(d, "who"), fmt.Sprint(i))
					write(t, filepath.Join(d, fmt.Sprint(i)), fmt.Sprint(i))
					lowers = append(lowers, d)
				}
				d := mkdirs(t, in, "upper", "work")
				target := mkdirs(t, dir, "target")[0]
				assert.NilError(t, m.Mount(t.Context(), overlayOf(lowers, "upperdir="+d[0], "workdir="+d[1]), target))
				assert.Equal(t, read(t, filepath.Join(target, "who")), "0")
				for i := range depth {
					assert.Equal(t, read(t, filepath.Join(target, fmt.Sprint(i))), fmt.Sprint(i))
				}
				unmount(t, target)
			})
		})
	}
}
