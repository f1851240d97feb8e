package upper

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend/internal/dirfd"
)

// layers makes the view of parents whose upper directories the steps fill.
func layers(t *testing.T, fill ...func(dir string)) *below {
	t.Helper()
	b := &below{walker: &walker{marks: Trusted()}, mapped: true, stacks: map[string][]lower{}}
	for _, f := range fill {
		dir := t.TempDir()
		f(dir)
		d, err := dirfd.Open(dir)
		assert.NilError(t, err)
		b.root = append(b.root, lower{Dir: d, whiteouts: true})
	}
	t.Cleanup(func() { assert.NilError(t, b.Close()) })
	return b
}

// makeDeep makes levels directories called d, one in the other, in dir, and calls each in some of them.
func makeDeep(t *testing.T, dir string, levels int, each func(level int, at dirfd.Dir)) {
	t.Helper()
	at, err := dirfd.Open(dir)
	assert.NilError(t, err)
	for i := range levels {
		assert.NilError(t, unix.Mkdirat(at.FD, "d", 0o755))
		next, err := at.Open("d")
		assert.NilError(t, err)
		at.Close()
		at = next
		each(i+1, at)
	}
	at.Close()
}

// TestBelowFar holds that what is deep below, deeper than any path can say, is found as what is near, in every layer, through marks,
// and in any order, with few descriptors.
func TestBelowFar(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("marks need root")
	}
	const levels = 2500
	file := func(at dirfd.Dir, name string) {
		assert.NilError(t, unix.Mknodat(at.FD, name, unix.S_IFREG|0o600, 0))
	}
	b := layers(t, func(dir string) {
		makeDeep(t, dir, levels, func(level int, at dirfd.Dir) {
			switch level {
			case 1000:
				file(at, "top")
				assert.NilError(t, unix.Mknodat(at.FD, "gone", unix.S_IFCHR, 0))
			case 2000:
				assert.NilError(t, unix.Fsetxattr(at.FD, "trusted.overlay.opaque", []byte("y"), 0))
			case levels:
				file(at, "end")
			}
		})
	}, func(dir string) {
		makeDeep(t, dir, levels, func(level int, at dirfd.Dir) {
			switch level {
			case 1000:
				file(at, "gone")
				file(at, "base")
			case 1999, 2000, levels:
				file(at, "under")
			}
		})
	})
	path := func(level int, name string) string { return strings.Repeat("d/", level) + name }
	want := map[string]bool{
		path(1000, "top"): true, path(1000, "base"): true, path(1000, "gone"): false, path(1000, "d"): true, path(1000, "e"): false,
		path(1999, "under"): true, path(2000, "under"): false, path(levels, "end"): true, path(levels, "under"): false,
		path(levels+1, "end"): false, path(1000, "top/x"): false, path(10, strings.Repeat("n", 255)+"/x"): false,
	}
	before := descriptors(t)
	for range 3 {
		for name, is := range want {
			n, err := b.Lookup(name)
			assert.NilError(t, err)
			assert.Equal(t, n != nil, is, "%d: %s", strings.Count(name, "/"), filepath.Base(name))
		}
	}
	names, err := b.Names(path(999, "d"))
	assert.NilError(t, err)
	assert.DeepEqual(t, names, []string{"base", "d", "top"})
	assert.Assert(t, descriptors(t) <= before+2*len(b.root), "%d descriptors", descriptors(t)-before)
	assert.NilError(t, b.Close())
	assert.Equal(t, descriptors(t), before-2)
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	assert.NilError(t, err)
	return len(list)
}

// TestBelowFarCost holds that a step further down into what is below does not cost more the deeper it is: by the processor's time, which
// counts what the kernel does for a path.
func TestBelowFarCost(t *testing.T) {
	step := func(levels int) float64 {
		b := layers(t, func(dir string) { makeDeep(t, dir, levels, func(int, dirfd.Dir) {}) })
		best := 0.0
		name := strings.Repeat("d/", levels)
		for i := range 3 {
			before := ticks(t)
			for level := range levels {
				n, err := b.Lookup(name[:2*level+1])
				assert.NilError(t, err)
				assert.Assert(t, n != nil)
			}
			if used := ticks(t) - before; i == 0 || used < best {
				best = used
			}
			b.stacks = map[string][]lower{}
		}
		return best / float64(levels)
	}
	shallow, deep := step(700), step(2800)
	assert.Assert(t, deep < 2.5*shallow, "%.0f ns a step at 2800 levels, %.0f at 700", deep, shallow)
}

// ticks is the processor time that this process has used, ns.
func ticks(t *testing.T) float64 {
	t.Helper()
	var u unix.Rusage
	assert.NilError(t, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return float64(unix.TimevalToNsec(u.Utime) + unix.TimevalToNsec(u.Stime))
}
