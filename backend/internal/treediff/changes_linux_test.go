package treediff_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/pkg/archive"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/backendtest"
	"strata/backend/internal/loopfs"
	"strata/backend/internal/tree"
	"strata/backend/internal/treediff"
)

func TestMain(m *testing.M) { os.Exit(backendtest.Main(m)) }

func requireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes devices, owners and file systems")
	}
}

// list collects a sequence as "C /path".
func list(t testing.TB, changes iter.Seq2[backend.Change, error]) []string {
	t.Helper()
	all := []string{}
	for c, err := range changes {
		assert.NilError(t, err)
		all = append(all, c.Kind.String()+" "+c.Path)
	}
	return all
}

var (
	day1 = time.Date(2010, 1, 1, 0, 0, 0, 500, time.UTC)
	day2 = time.Date(2010, 1, 2, 0, 0, 0, 500, time.UTC)
)

const capability = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" // cap_net_bind_service=ep

// lowerTree is what each rule starts from. All times are set, so that a copy is equal.
func lowerTree() backendtest.Step {
	return backendtest.Steps(
		backendtest.MkdirAll("dir/sub/deep"), backendtest.CreateFile("dir/file", []byte("1"), 0o644), backendtest.CreateFile("dir/sub/f", []byte("1"), 0o644),
		backendtest.CreateFile("file", []byte("1"), 0o755), backendtest.CreateFile("dir-x", nil, 0o644), backendtest.CreateFile("dir.x", nil, 0o644),
		backendtest.Symlink("a", "link"), backendtest.CharDevice("dev", 0o600, 1, 3), backendtest.Fifo("fifo", 0o600),
		backendtest.SetTime("file", day1), backendtest.SetTime("link", day1), backendtest.SetTime("dev", day1), backendtest.SetTime("fifo", day1),
	)
}

// TestRules is the table of the package comment, and what is compared of a file.
func TestRules(t *testing.T) {
	requireRoot(t)
	steps := backendtest.Steps
	retime := backendtest.SetTime("file", day1)
	for _, c := range []struct {
		name string
		step backendtest.Step
		want []string
	}{
		{"nothing", steps(), []string{}},
		{"added file", backendtest.CreateFile("dir/new", nil, 0o644), []string{"C /dir", "A /dir/new"}},
		{"added directory", steps(backendtest.MkdirAll("new/sub"), backendtest.CreateFile("new/sub/f", nil, 0o644)), []string{"A /new", "A /new/sub", "A /new/sub/f"}},
		{"deleted file", backendtest.Remove("dir/file"), []string{"C /dir", "D /dir/file"}},
		{"deleted directory", backendtest.RemoveAll("dir"), []string{"D /dir"}},
		{"content", steps(backendtest.Append("file", []byte("2")), retime), []string{"C /file"}},
		{"mode", backendtest.Chmod("file", 0o700), []string{"C /file"}},
		{"setuid", backendtest.Chmod("file", 0o755|os.ModeSetuid), []string{"C /file"}},
		{"uid", backendtest.Chown("file", 1, 0), []string{"C /file"}},
		{"gid", backendtest.Chown("link", 0, 1), []string{"C /link"}},
		{"time", backendtest.SetTime("file", day2), []string{"C /file"}},
		{"nanoseconds", backendtest.SetTime("file", day1.Add(1)), []string{"C /file"}},
		{"no nanoseconds", backendtest.SetTime("file", day1.Truncate(time.Second)), []string{"C /file"}},
		{"content under the same time", steps(backendtest.CreateFile("file", []byte("2"), 0o755), retime), []string{"C /file"}},
		{"same content", steps(backendtest.Remove("file"), backendtest.CreateFile("file", []byte("1"), 0o755), retime), []string{}},
		{"capability", backendtest.SetXattr("file", "security.capability", capability), []string{"C /file"}},
		{"attribute", backendtest.SetXattr("dir/sub/f", "user.x", "1"), []string{"C /dir", "C /dir/sub", "C /dir/sub/f"}},
		{"attribute of a directory", backendtest.SetXattr("dir/sub", "trusted.x", strings.Repeat("1", 1000)), []string{"C /dir", "C /dir/sub"}},
		{"foreign attributes", backendtest.SetXattr("dir", "trusted.overlay.opaque", "y"), []string{}},
		{"attributes of a nested overlay", backendtest.SetXattr("dir", "user.overlay.x", "y"), []string{"C /dir"}},
		{"device number", steps(backendtest.Remove("dev"), backendtest.CharDevice("dev", 0o600, 1, 5), backendtest.SetTime("dev", day1)), []string{"C /dev"}},
		{"link target", steps(backendtest.Remove("link"), backendtest.Symlink("b", "link"), backendtest.SetTime("link", day1)), []string{"C /link"}},
		{"kind of file", steps(backendtest.Remove("fifo"), backendtest.CreateFile("fifo", nil, 0o600), backendtest.SetTime("fifo", day1)), []string{"C /fifo"}},
		{"directory mode", backendtest.Chmod("dir/sub", 0o700), []string{"C /dir", "C /dir/sub"}},
		{"directory time", backendtest.SetTime("dir/sub", day2), []string{"C /dir", "C /dir/sub"}},
		{"directory to file", steps(backendtest.RemoveAll("dir"), backendtest.CreateFile("dir", nil, 0o644)), []string{"C /dir"}},
		{
			"file to directory", steps(backendtest.Remove("file"), backendtest.MkdirAll("file/in")),
			[]string{"C /file", "A /file/in"},
		},
		{"link to directory", steps(backendtest.Remove("link"), backendtest.MkdirAll("link")), []string{"C /link"}},
		{
			"replaced directory", steps(backendtest.Replace("dir", 0o755), backendtest.CreateFile("dir/other", nil, 0o644)),
			[]string{"C /dir", "D /dir/file", "A /dir/other", "D /dir/sub"},
		},
		{
			"moved directory", backendtest.Rename("dir/sub", "sub"),
			[]string{"C /dir", "D /dir/sub", "A /sub", "A /sub/deep", "A /sub/f"},
		},
		{"hard link", backendtest.Link("file", "again"), []string{"A /again", "C /file"}},
		{"hard link elsewhere", steps(backendtest.Link("dir/sub/f", "again"), backendtest.SetTime("dir/sub", day2)), []string{"A /again", "C /dir", "C /dir/sub", "C /dir/sub/f"}},
		{
			"order", steps(backendtest.Chmod("dir-x", 0), backendtest.Chmod("dir.x", 0), backendtest.Chmod("dir/sub/f", 0), backendtest.Remove("file"), backendtest.CreateFile("A", nil, 0)),
			[]string{"A /A", "C /dir", "C /dir/sub", "C /dir/sub/f", "C /dir-x", "C /dir.x", "D /file"},
		},
		{"odd names", steps(backendtest.CreateFile(".wh.x", nil, 0), backendtest.CreateFile("a\nb", nil, 0)), []string{"A /.wh.x", "A /a\nb"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			upper, lower := pairOfTrees(t, lowerTree())
			assert.NilError(t, c.step(upper))
			assert.DeepEqual(t, list(t, treediff.Changes(t.Context(), upper, lower, treediff.Options{})), c.want)
			assert.DeepEqual(t, list(t, treediff.Changes(t.Context(), upper, upper, treediff.Options{})), []string{})
		})
	}
}

// pairOfTrees makes a tree and a copy of it.
func pairOfTrees(t testing.TB, content backendtest.Step) (upper, lower string) {
	t.Helper()
	dir := t.TempDir()
	lower, upper = filepath.Join(dir, "lower"), filepath.Join(dir, "upper")
	assert.NilError(t, os.Mkdir(lower, 0o755))
	assert.NilError(t, content(lower))
	assert.NilError(t, tree.Copy(t.Context(), lower, upper))
	return upper, lower
}

func TestEmptyLower(t *testing.T) {
	requireRoot(t)
	upper, _ := pairOfTrees(t, backendtest.Steps(backendtest.MkdirAll("b/c"), backendtest.CreateFile("a", nil, 0o644)))
	assert.DeepEqual(t, list(t, treediff.Changes(t.Context(), upper, "", treediff.Options{})), []string{"A /a", "A /b", "A /b/c"})
}

// TestOwners compares owners as a container sees them.
func TestOwners(t *testing.T) {
	requireRoot(t)
	ids := func(host uint32) *backend.IDMap {
		r := []backend.IDRange{{Container: 0, Host: host, Size: 1000}}
		return &backend.IDMap{UIDs: r, GIDs: r}
	}
	upper, lower := pairOfTrees(t, backendtest.Steps(backendtest.CreateFile("same", nil, 0o644), backendtest.CreateFile("other", nil, 0o644), backendtest.CreateFile("unmapped", nil, 0o644)))
	for name, owners := range map[string][2]int{"same": {100005, 200005}, "other": {100005, 200006}, "unmapped": {5, 5}} {
		assert.NilError(t, os.Chown(filepath.Join(upper, name), owners[0], 100000))
		assert.NilError(t, os.Chown(filepath.Join(lower, name), owners[1], 200000))
	}
	o := treediff.Options{UpperIDs: ids(100000), LowerIDs: ids(200000)}
	assert.DeepEqual(t, list(t, treediff.Changes(t.Context(), upper, lower, o)), []string{"C /other", "C /unmapped"})
	o = treediff.Options{UpperIDs: ids(100000), LowerIDs: ids(100000)} // equal maps: no owner need be mapped
	assert.DeepEqual(t, list(t, treediff.Changes(t.Context(), upper, upper, o)), []string{})
}

// TestUnchanged holds that only names with equal inode numbers are asked about, and passed over whole.
func TestUnchanged(t *testing.T) {
	requireRoot(t)
	a, b := loopfs.New(t, "tmpfs", 1<<20, ""), loopfs.New(t, "tmpfs", 1<<20, "")
	for i, dir := range []string{a, b} { // a fresh tmpfs counts its inodes from the same number on
		assert.NilError(t, backendtest.Steps(backendtest.MkdirAll("d/e"), backendtest.CreateFile("d/e/f", make([]byte, i), 0o644), backendtest.CreateFile("g", make([]byte, i), 0o644))(dir))
	}
	asked := 0
	o := treediff.Options{Unchanged: func(_, ino uint64) bool {
		asked++
		var st unix.Stat_t
		assert.NilError(t, unix.Stat(filepath.Join(a, "d"), &st))
		return ino == st.Ino
	}}
	assert.DeepEqual(t, list(t, treediff.Changes(t.Context(), a, b, o)), []string{"C /g"})
	assert.Assert(t, asked == 2, "asked %d times", asked)
}

// TestContent: what looks the same is read.
func TestContent(t *testing.T) {
	upper, lower := t.TempDir(), t.TempDir()
	long := strings.Repeat("x", 70000)
	for name, c := range map[string]struct{ upper, lower string }{
		"changed": {"new", "old"}, "same": {"old", "old"}, "empty": {"", ""}, "end differs": {long + "1", long + "2"}, "long": {long, long},
	} {
		for dir, text := range map[string]string{upper: c.upper, lower: c.lower} {
			assert.NilError(t, backendtest.Steps(backendtest.CreateFile(name, []byte(text), 0o644), backendtest.SetTime(name, day1))(dir))
		}
	}
	for name, at := range map[string]int64{"hole": -1, "hole then data": 1 << 40, "data in the hole": 1<<39 + 5} {
		for _, dir := range []string{upper, lower} {
			assert.NilError(t, backendtest.SparseFile(name, 1<<40+1, max(at, 0), nil)(dir))
		}
		if at >= 0 {
			assert.NilError(t, writeAt(filepath.Join(upper, name), at, "x"))
		}
		assert.NilError(t, backendtest.SetTime(name, day1)(upper))
		assert.NilError(t, backendtest.SetTime(name, day1)(lower))
	}
	got := list(t, treediff.Changes(t.Context(), upper, lower, treediff.Options{}))
	assert.DeepEqual(t, got, []string{"C /changed", "C /data in the hole", "C /end differs", "C /hole then data"})
}

func writeAt(path string, at int64, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(text), at)
	return errors.Join(err, f.Close())
}

// TestReflinks: files that share their blocks are the same until one of them is written to.
func TestReflinks(t *testing.T) {
	requireRoot(t)
	for fs, size := range map[string]int64{"xfs": loopfs.Small("xfs"), "btrfs": loopfs.Small("btrfs")} {
		t.Run(fs, func(t *testing.T) {
			dir := loopfs.New(t, fs, size, "")
			lower, upper := filepath.Join(dir, "lower"), filepath.Join(dir, "upper")
			assert.NilError(t, os.Mkdir(lower, 0o755))
			for _, name := range []string{"same", "written"} {
				assert.NilError(t, backendtest.Steps(backendtest.CreateFile(name, backendtest.Noise(1, 3<<20), 0o644), backendtest.SetTime(name, day1))(lower))
			}
			assert.NilError(t, tree.Copy(t.Context(), lower, upper))
			assert.NilError(t, writeAt(filepath.Join(upper, "written"), 2<<20, "x")) // not yet on the disk
			assert.NilError(t, backendtest.SetTime("written", day1)(upper))
			assert.DeepEqual(t, list(t, treediff.Changes(t.Context(), upper, lower, treediff.Options{})), []string{"C /written"})
		})
	}
}

// TestManyChanges has more changes than are remembered until it is known that "a", which comes first, is listed because of "z".
func TestManyChanges(t *testing.T) {
	const many = 1<<16 + 10
	upper, lower := t.TempDir(), t.TempDir()
	for _, dir := range []string{upper, lower} {
		assert.NilError(t, backendtest.Steps(backendtest.CreateFile("a", []byte("x"), 0o644), backendtest.SetTime("a", day1))(dir))
	}
	assert.NilError(t, backendtest.Link("a", "z")(upper))
	for i := range many {
		assert.NilError(t, os.Symlink("x", filepath.Join(upper, fmt.Sprintf("n%05d", i))))
	}
	got := list(t, treediff.Changes(t.Context(), upper, lower, treediff.Options{}))
	assert.Equal(t, len(got), many+2)
	assert.Equal(t, got[0], "C /a")
	assert.Equal(t, got[len(got)-1], "A /z")
}

func TestStopAndErrors(t *testing.T) {
	requireRoot(t)
	upper, lower := pairOfTrees(t, lowerTree())
	assert.NilError(t, backendtest.Steps(backendtest.CreateFile("dir/sub/new", nil, 0), backendtest.CreateFile("znew", nil, 0))(upper))
	ledger := backendtest.NewLedger(t, upper)
	defer ledger.Check(t)
	for _, err := range treediff.Changes(t.Context(), upper, lower, treediff.Options{}) {
		assert.NilError(t, err)
		break
	}
	last := func(ctx context.Context, upper, lower string) (err error) {
		for _, err = range treediff.Changes(ctx, upper, lower, treediff.Options{}) {
		}
		return err
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.ErrorIs(t, last(ctx, upper, lower), context.Canceled)
	assert.ErrorIs(t, last(t.Context(), upper+"x", lower), unix.ENOENT)
	assert.ErrorIs(t, last(t.Context(), upper, lower+"x"), unix.ENOENT)
	assert.NilError(t, unix.Mount("tmpfs", filepath.Join(upper, "dir"), "tmpfs", 0, ""))
	err := last(t.Context(), upper, lower)
	assert.NilError(t, unix.Unmount(filepath.Join(upper, "dir"), 0))
	assert.Assert(t, errdefs.IsFailedPrecondition(err), "%v", err)
}

// TestVanishing compares a tree that is torn down meanwhile, which must not be an error.
func TestVanishing(t *testing.T) {
	requireRoot(t)
	upper, lower := pairOfTrees(t, backendtest.Root(9, 2000))
	done := make(chan error, 1)
	go func() { done <- os.RemoveAll(filepath.Join(upper, "usr")) }()
	for finished := false; !finished; {
		select {
		case err := <-done:
			assert.NilError(t, err)
			finished = true
		default:
		}
		list(t, treediff.Changes(t.Context(), upper, lower, treediff.Options{}))
	}
	assert.DeepEqual(t, list(t, treediff.Changes(t.Context(), upper, lower, treediff.Options{})), []string{"D /usr"})
}

// TestOracle compares with the slow and obvious answer on random trees, and with Docker's own code: all that Docker lists is
// listed, and what else is listed differs in something that Docker does not look at.
func TestOracle(t *testing.T) {
	requireRoot(t)
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			upper, lower := pairOfTrees(t, mutations(rnd, 200))
			assert.NilError(t, mutations(rnd, 40)(upper))
			for _, other := range []string{lower, ""} {
				before, after := backendtest.Tree{".": {}}, readTree(t, upper)
				if other != "" {
					before = readTree(t, other)
				}
				got := list(t, treediff.Changes(t.Context(), upper, other, treediff.Options{}))
				assert.DeepEqual(t, got, lines(backendtest.Changes(before, after)))
				docker, err := archive.ChangesDirs(upper, other)
				assert.NilError(t, err)
				more := slices.DeleteFunc(slices.Clone(got), func(c string) bool { return slices.Contains(inPathOrder(docker), c) })
				assert.Equal(t, len(got)-len(more), len(docker), "Docker lists %v", docker)
				for _, c := range more {
					assert.Assert(t, explained(c, got, before, after), "%s", c)
				}
			}
		})
	}
}

// explained tells that a change that Docker does not list is one of what it does not look at, or of what such a directory holds.
func explained(change string, all []string, before, after backendtest.Tree) bool {
	path := strings.TrimPrefix(change, "C /")
	was, is := before[path], after[path]
	holds := slices.ContainsFunc(all, func(c string) bool { return strings.HasPrefix(c[2:], "/"+path+"/") })
	return path != change && (holds || !was.Time.Equal(is.Time) || was.Digest != is.Digest || was.Target != is.Target ||
		!maps.Equal(was.Xattrs, is.Xattrs) || !slices.Equal(otherNames(before, path), otherNames(after, path)))
}

// otherNames lists the names of a file with several.
func otherNames(t backendtest.Tree, path string) []string {
	var all []string
	for name, e := range t {
		if e.Group != "" && e.Group == t[path].Group {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return all
}

func readTree(t *testing.T, dir string) backendtest.Tree {
	t.Helper()
	read, err := backendtest.ReadTree(dir)
	assert.NilError(t, err)
	return read
}

func lines(changes []backend.Change) []string {
	all := []string{}
	for _, c := range changes {
		all = append(all, c.Kind.String()+" "+c.Path)
	}
	return all
}

func inPathOrder(changes []archive.Change) []string {
	slices.SortFunc(changes, func(a, b archive.Change) int {
		return slices.Compare(strings.Split(a.Path, "/"), strings.Split(b.Path, "/"))
	})
	all := []string{}
	for _, c := range changes {
		all = append(all, c.String())
	}
	return all
}

// mutations makes n random changes, in a small name space so that they meet.
func mutations(rnd *rand.Rand, n int) backendtest.Step {
	return func(root string) error {
		for range n {
			path := ""
			for range 1 + rnd.IntN(3) {
				path = filepath.Join(path, string("abcdef"[rnd.IntN(6)])+[]string{"", "-", "."}[rnd.IntN(3)])
			}
			if err := mutation(rnd, path)(root); err != nil && !expected(err) {
				return err
			}
		}
		return nil
	}
}

// expected tells errors of changes that do not fit the tree as it happens to be.
func expected(err error) bool {
	for _, e := range []error{unix.ENOENT, unix.ENOTDIR, unix.EEXIST, unix.EISDIR, unix.EPERM, unix.ENOTEMPTY, unix.EINVAL, unix.ELOOP, unix.EOPNOTSUPP, unix.ENXIO} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func mutation(rnd *rand.Rand, path string) backendtest.Step {
	when := day1.Add(time.Duration(rnd.IntN(3)) * time.Second / 2)
	switch rnd.IntN(14) {
	case 0, 1, 2:
		return backendtest.MkdirAll(path)
	case 3:
		return backendtest.Steps(backendtest.CreateFile(path, make([]byte, rnd.IntN(3)), 0o644), backendtest.SetTime(path, when))
	case 4:
		return backendtest.Chmod(path, os.FileMode(0o700+rnd.IntN(8)))
	case 5:
		return backendtest.Chown(path, rnd.IntN(2), rnd.IntN(2))
	case 6:
		return backendtest.SetTime(path, when)
	case 7:
		return backendtest.Symlink("somewhere", path)
	case 8:
		return backendtest.CharDevice(path, 0o600, 1, 3+2*rnd.Uint32N(2)) // null and zero: a later step may open it
	case 9:
		return backendtest.RemoveAll(path)
	case 10:
		return backendtest.Steps(backendtest.CreateFile(path, []byte{byte(rnd.IntN(2))}, 0o644), backendtest.SetTime(path, day1))
	case 11:
		return backendtest.Link(string("abcdef"[rnd.IntN(6)]), path)
	}
	return backendtest.SetXattr(path, "security.capability", capability)
}

func BenchmarkChanges(b *testing.B) {
	requireRoot(b)
	upper, lower := pairOfTrees(b, backendtest.Root(1, 20000))
	assert.NilError(b, backendtest.Churn(1, 20, 20000)(upper))
	b.Run("treediff", func(b *testing.B) {
		for b.Loop() {
			for _, err := range treediff.Changes(b.Context(), upper, lower, treediff.Options{}) {
				assert.NilError(b, err)
			}
		}
	})
	b.Run("docker", func(b *testing.B) {
		for b.Loop() {
			_, err := archive.ChangesDirs(upper, lower)
			assert.NilError(b, err)
		}
	})
}
