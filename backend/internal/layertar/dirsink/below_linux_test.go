package dirsink

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend"

	"strata/backend/internal/layertar/tartest"
	"strata/backend/internal/layertar/unpack"
)

// plainBelow shows a plain directory as what lies below, and counts what it is asked.
type plainBelow struct {
	dir   string
	asked int
}

func (b *plainBelow) open() (backend.Below, error) { return b, nil }

func (b *plainBelow) Close() error { return nil }

func (b *plainBelow) Lookup(path string) (*backend.Node, error) {
	b.asked++
	var st unix.Stat_t
	err := unix.Lstat(filepath.Join(b.dir, path), &st)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ENAMETOOLONG) {
		return nil, nil //nolint:nilnil // nil is nothing
	}
	n := &backend.Node{Mode: st.Mode, UID: st.Uid, GID: st.Gid}
	if kindOf(st.Mode) == isLink {
		n.Target, err = os.Readlink(filepath.Join(b.dir, path))
	}
	return n, err
}

func (b *plainBelow) Names(path string) ([]string, error) {
	b.asked++
	var names []string
	list, err := os.ReadDir(filepath.Join(b.dir, path))
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names, err
}

func device0(name string) tartest.Member {
	return tartest.Member{Header: tar.Header{Name: name, Typeflag: tar.TypeChar, Mode: 0o600}}
}

// TestBelow holds what unpacking puts into an upper directory when it knows what lies below, and that Settle makes the same of
// what was unpacked before that was known.
func TestBelow(t *testing.T) {
	tartest.NeedRoot(t)
	below := &plainBelow{dir: t.TempDir()}
	_, err := Apply(t.Context(), below.dir, bytes.NewReader(tartest.Make(t, append(whiteoutParent(), tartest.Symlink("l", "d/sub"))...)), Options{}, unpack.Options{})
	assert.NilError(t, err)
	for _, test := range []struct {
		name    string
		members []tartest.Member
		want    map[string]string
		asked   bool
	}{
		{
			"names its parents",
			[]tartest.Member{tartest.Dir("d"), tartest.File("d/f", "f"), tartest.Dir("n"), tartest.File("n/f", "f"), tartest.Link("n/g", "n/f")},
			map[string]string{"d": "dir", "d/f": "f", "n": "dir", "n/f": "f", "n/g": "f"},
			false,
		},
		{"deletes", []tartest.Member{tartest.File("d/sub/.wh.x", ""), tartest.File(".wh.f", "")}, map[string]string{"d": "dir", "d/sub": "dir", "d/sub/x": "gone", "f": "gone"}, true},
		{"deletes nothing", []tartest.Member{tartest.File("d/.wh.never", ""), tartest.File("n/m/.wh.x", ""), tartest.File("n/.wh..wh..opq", "")}, map[string]string{}, true},
		{
			"deletes through a symlink",
			[]tartest.Member{tartest.File("l/.wh.x", ""), tartest.File("l/y", "y")},
			map[string]string{"d": "dir", "d/sub": "dir", "d/sub/x": "gone", "d/sub/y": "y"},
			true,
		},
		{
			"makes the root opaque",
			[]tartest.Member{tartest.File("d/f", "f"), tartest.File(".wh..wh..opq", "")},
			map[string]string{"d": "opaque", "d/f": "f", "f": "gone", "k": "gone", "l": "gone"},
			true,
		},
		{
			"has devices 0:0",
			[]tartest.Member{device0("d/sub/x"), device0("d/never"), tartest.File("f", "f"), device0("f"), tartest.Dir("n"), device0("n/x")},
			map[string]string{"d": "dir", "d/sub": "dir", "d/sub/x": "gone", "f": "gone", "n": "dir"},
			true,
		},
		{
			"moves into what it describes",
			[]tartest.Member{tartest.File("l/f", "f"), tartest.Dir("d"), tartest.Dir("d/sub"), tartest.File("d/sub/g", "g"), tartest.Dir("d/sub/e"), tartest.File("l/e/h", "h")},
			map[string]string{"d": "dir", "d/sub": "dir", "d/sub/f": "f", "d/sub/g": "g", "d/sub/e": "dir", "d/sub/e/h": "h"},
			true,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			known, late := t.TempDir(), t.TempDir()
			data := tartest.Make(t, test.members...)
			below.asked = 0
			_, err := Apply(t.Context(), known, bytes.NewReader(data), Options{Whiteouts: overlay, Below: below.open}, unpack.Options{})
			assert.NilError(t, err)
			assert.Equal(t, cmp.Diff(test.want, layout(t, known)), "")
			assert.Equal(t, below.asked > 0, test.asked)
			_, err = Apply(t.Context(), late, bytes.NewReader(data), Options{Whiteouts: overlay}, unpack.Options{})
			assert.NilError(t, err)
			for range 2 { // it may be repeated
				assert.NilError(t, Settle(t.Context(), late, Options{Whiteouts: overlay, Below: below.open}))
				assert.Equal(t, cmp.Diff(test.want, layout(t, late)), "")
				all, err := tartest.Snapshot(late)
				assert.NilError(t, err)
				for path, line := range all {
					assert.Assert(t, !strings.Contains(line, "implied"), "%s: %s", path, line)
				}
			}
		})
	}
}

// TestSettleConflict holds that a file which turns out to have come twice is refused, since nobody knows which came last.
func TestSettleConflict(t *testing.T) {
	tartest.NeedRoot(t)
	below, late := &plainBelow{dir: t.TempDir()}, t.TempDir()
	assert.NilError(t, os.Mkdir(filepath.Join(below.dir, "d"), 0o755))
	assert.NilError(t, os.Symlink("d", filepath.Join(below.dir, "l")))
	data := tartest.Make(t, tartest.File("d/f", "1"), tartest.File("l/f", "2"))
	_, err := Apply(t.Context(), late, bytes.NewReader(data), Options{Whiteouts: overlay}, unpack.Options{})
	assert.NilError(t, err)
	err = Settle(t.Context(), late, Options{Whiteouts: overlay, Below: below.open})
	assert.ErrorContains(t, err, "l/f")
}

// TestMarksCost holds that what marks cost does not grow with how often they come, nor with the square of how deep they lie.
func TestMarksCost(t *testing.T) {
	tartest.NeedRoot(t)
	const depth, many = 500, 400
	below := &plainBelow{dir: t.TempDir()}
	deep := strings.Repeat("d/", depth)
	assert.NilError(t, os.MkdirAll(filepath.Join(below.dir, deep), 0o755))
	shapes := map[string][]tartest.Member{}
	for i := range many {
		name := fmt.Sprint(i)
		shapes["opaque again and again"] = append(shapes["opaque again and again"], tartest.File("o/"+name, ""), tartest.File("o/.wh..wh..opq", ""))
		shapes["opaque root"] = append(shapes["opaque root"], tartest.File(name, ""), tartest.File(".wh..wh..opq", ""))
		shapes["deleted again and again"] = append(shapes["deleted again and again"], tartest.File("w/"+name+"/f", ""), tartest.File(".wh.w", ""))
		if i < many/10 {
			shapes["deep"] = append(shapes["deep"], tartest.File(deep+".wh."+name, ""))
			shapes["deep and nothing there"] = append(shapes["deep and nothing there"], tartest.File(deep+name+"/.wh.x", ""))
		}
	}
	for name, members := range shapes {
		t.Run(name, func(t *testing.T) {
			data := tartest.Make(t, members...)
			for _, known := range []func() (backend.Below, error){below.open, nil} {
				below.asked = 0
				before := cpuOf(t)
				_, err := Apply(t.Context(), t.TempDir(), bytes.NewReader(data), Options{Whiteouts: overlay, Below: known}, unpack.Options{})
				assert.NilError(t, err)
				// On an idle machine it is a hundredth of that for each entry, and 2 ms for a deep one.
				used, most := cpuOf(t)-before, time.Duration(len(members))*20*time.Millisecond
				assert.Assert(t, used < most, "%d entries took %v", len(members), used)
				assert.Assert(t, below.asked <= 2*depth+2*len(members), "%d entries, %d questions", len(members), below.asked)
			}
		})
	}
}

// TestLateLinksCost holds that removing a directory costs nothing for links elsewhere that wait for their targets.
func TestLateLinksCost(t *testing.T) {
	tartest.NeedRoot(t)
	cost := func(links, flips int) time.Duration {
		members := make([]tartest.Member, 0, links+2*flips+1)
		for i := range links {
			members = append(members, tartest.Link(fmt.Sprint("l/", i), "x"))
		}
		for range flips {
			members = append(members, tartest.Dir("d"), tartest.Symlink("d", "nowhere"))
		}
		data := tartest.Make(t, append(members, tartest.File("x", ""))...)
		dir := t.TempDir()
		assert.NilError(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "")) // a disk's file system may take longer for a name than we do
		before := cpuOf(t)
		_, err := Apply(t.Context(), dir, bytes.NewReader(data), Options{Whiteouts: overlay}, unpack.Options{})
		used := cpuOf(t) - before
		assert.NilError(t, errors.Join(err, unix.Unmount(dir, 0)))
		return used
	}
	const links, flips = 30000, 3000
	alone, beside := cost(0, flips), cost(links, flips)-cost(links, 0)
	// Where each removal looks at each link it is twenty times as much.
	assert.Assert(t, beside < 5*alone+time.Second, "%v beside %d links, %v alone", beside, links, alone)
}

// cpuOf is the processor time that the test's process has used.
func cpuOf(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	assert.NilError(t, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(unix.TimevalToNsec(u.Utime) + unix.TimevalToNsec(u.Stime))
}
