package overlay_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/backendtest"
	"strata/backend/internal/treediff"
)

// TestChanges holds what is listed for each kind of change.
func TestChanges(t *testing.T) {
	steps := backendtest.Steps
	base := steps(
		backendtest.MkdirAll("dir/sub"), backendtest.CreateFile("dir/sub/deep", []byte("deep"), 0o644),
		backendtest.CreateFile("dir/file", []byte("file"), 0o644), backendtest.CreateFile("file", []byte("file"), 0o644),
		backendtest.SetTime("file", time.Unix(1e9, 1)), backendtest.Symlink("file", "link"),
		backendtest.MkdirAll("a/b/c"), backendtest.CreateFile("a/b/c/d", []byte("x"), 0o644),
		backendtest.CreateFile("dir-x", nil, 0o644), backendtest.CreateFile("dir-y", nil, 0o644),
		backendtest.SetTime("dir-x", time.Unix(1e9, 1)), backendtest.SetTime("dir-y", time.Unix(1e9, 1)))
	for name, c := range map[string]struct {
		step backendtest.Step
		want string
	}{
		"nothing":                  {nil, ""},
		"new file":                 {backendtest.CreateFile("dir/new", nil, 0o644), "C /dir\nA /dir/new"},
		"path order":               {steps(backendtest.CreateFile("dir/new", nil, 0o644), backendtest.Chmod("dir-x", 0o600)), "C /dir\nA /dir/new\nC /dir-x"},
		"new tree":                 {backendtest.MkdirAll("n/e/w"), "A /n\nA /n/e\nA /n/e/w"},
		"changed content":          {backendtest.Append("file", []byte("x")), "C /file"},
		"copied up, not changed":   {steps(backendtest.Append("file", []byte("x")), backendtest.CreateFile("file", []byte("file"), 0o644), backendtest.SetTime("file", time.Unix(1e9, 1))), ""},
		"directory only copied up": {steps(backendtest.Append("a/b/c/d", nil), backendtest.Append("a/b/c/d", nil)), ""},
		"time of a directory":      {steps(backendtest.CreateFile("a/b/x", nil, 0o644), backendtest.Remove("a/b/x")), "C /a\nC /a/b"},
		"content, same time":       {steps(backendtest.CreateFile("file", []byte("eliF"), 0o644), backendtest.SetTime("file", time.Unix(1e9, 1))), "C /file"},
		"same size moved over":     {steps(backendtest.CreateFile("w", []byte("eliF"), 0o644), backendtest.SetTime("w", time.Unix(1e9, 1)), backendtest.Rename("w", "file")), "C /file"},
		"one more name":            {backendtest.Link("file", "name"), "C /file\nA /name"},
		"two files made one":       {steps(backendtest.Remove("dir-y"), backendtest.Link("dir-x", "dir-y")), "C /dir-x\nC /dir-y"},
		"mode of a directory":      {backendtest.Chmod("a/b", 0o700), "C /a\nC /a/b"},
		"attribute":                {backendtest.SetXattr("dir/sub", "user.x", "y"), "C /dir\nC /dir/sub"},
		"removed file":             {backendtest.Remove("dir/file"), "C /dir\nD /dir/file"},
		"removed tree":             {backendtest.RemoveAll("dir"), "D /dir"},
		"made and removed":         {steps(backendtest.CreateFile("x", nil, 0o644), backendtest.Remove("x")), ""},
		"replaced directory":       {steps(backendtest.RemoveAll("dir"), backendtest.MkdirAll("dir/sub"), backendtest.CreateFile("dir/x", nil, 0o644)), "C /dir\nD /dir/file\nC /dir/sub\nD /dir/sub/deep\nA /dir/x"},
		"directory to file":        {steps(backendtest.RemoveAll("dir"), backendtest.CreateFile("dir", nil, 0o644)), "C /dir"},
		"file to directory":        {steps(backendtest.Remove("file"), backendtest.MkdirAll("file/x")), "C /file\nA /file/x"},
		"target of a link":         {steps(backendtest.Remove("link"), backendtest.Symlink("elif", "link")), "C /link"},
	} {
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, dir string) {
				r := newRig(t, dir)
				l := r.layer("top", r.layer("base", nil, base), c.step)
				got, err := r.changes(l)
				assert.NilError(t, err)
				assert.DeepEqual(t, got, lines(c.want))
			})
		})
	}
}

// TestWhiteoutFiles holds that whiteouts of the other form are understood, in the layer and below it.
func TestWhiteoutFiles(t *testing.T) {
	r := newRig(t, loop(t, "ext4"))
	base := r.layer("base", nil, backendtest.Steps(backendtest.CreateFile("a", []byte("x"), 0o644), backendtest.CreateFile("b", []byte("x"), 0o644)))
	hide := func(l *backend.Layer, name string) {
		assert.NilError(t, os.WriteFile(r.upper(l, name), nil, 0o644))
		assert.NilError(t, unix.Lsetxattr(r.upper(l, name), "trusted.overlay.whiteout", nil, 0))
	}
	middle := r.layer("middle", base, nil)
	hide(middle, "a")
	hide(middle, "hides nothing")
	changes, err := r.changes(middle)
	assert.NilError(t, err)
	assert.DeepEqual(t, changes, []string{"D /a"})
	top := r.layer("top", middle, nil)
	assert.NilError(t, os.WriteFile(r.upper(top, "a"), []byte("x"), 0o644))
	changes, err = r.changes(top)
	assert.NilError(t, err)
	assert.DeepEqual(t, changes, []string{"A /a"})
}

// TestChangesAreTheComparison makes random trees of layers and compares the answer with that of a
// comparison of the two mounted trees.
func TestChangesAreTheComparison(t *testing.T) {
	onEach(t, func(t *testing.T, dir string) {
		for seed := range uint64(12) {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 7))
				r := newRig(t, filepath.Join(dir, fmt.Sprint(seed)))
				var parent *backend.Layer
				for i := range 6 {
					l := r.layer(fmt.Sprintf("l%d", i), parent, func(dir string) error { return scramble(random, dir) })
					if parent != nil {
						r.with(l, backend.MountOptions{ReadOnly: true}, func(upper string) {
							r.with(parent, backend.MountOptions{ReadOnly: true}, func(lower string) { compare(t, r, l, upper, lower) })
						})
					}
					parent = l
				}
			})
		}
	})
}

func compare(t *testing.T, r *rig, l *backend.Layer, upper, lower string) {
	t.Helper()
	var want []string
	for c, err := range treediff.Changes(t.Context(), upper, lower, treediff.Options{}) {
		assert.NilError(t, err)
		want = append(want, c.Kind.String()+" "+c.Path)
	}
	got, err := r.changes(l)
	assert.NilError(t, err)
	assert.DeepEqual(t, got, want)
}

// scramble does random things to a tree of few names, so that they meet.
func scramble(random *rand.Rand, root string) error {
	for range 40 {
		name := "."
		for range 1 + random.IntN(3) {
			name = path.Join(name, string(rune('a'+random.IntN(4))))
		}
		p := filepath.Join(root, name)
		var err error
		switch random.IntN(9) {
		case 0, 1:
			err = os.WriteFile(p, []byte(fmt.Sprint(random.Int64())), 0o644)
		case 2, 3:
			err = os.MkdirAll(p, 0o755)
		case 4:
			err = os.RemoveAll(p)
		case 5:
			err = os.Symlink(name, p)
		case 6:
			err = unix.Lsetxattr(p, "trusted.test", []byte(fmt.Sprint(random.IntN(3))), 0)
		case 7:
			err = unix.Fchmodat(unix.AT_FDCWD, p, 0o700+uint32(random.IntN(8)), 0)
		case 8:
			err = errors.Join(os.RemoveAll(p), os.MkdirAll(p, 0o755))
		}
		if err != nil && !expected(err) {
			return err
		}
	}
	return nil
}

// expected reports whether an error only means that an operation met the wrong kind of file.
func expected(err error) bool {
	for _, e := range []error{unix.ENOENT, unix.ENOTDIR, unix.EISDIR, unix.EEXIST, unix.ELOOP} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
