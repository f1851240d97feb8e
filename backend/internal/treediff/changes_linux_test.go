package treediff_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
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
		{"no nanoseconds", backendtest.SetTime("file", day1.Truncate(time.Second)), []string{}},
		{"capability", backendtest.SetXattr("file", "security.capability", capability), []string{"C /file"}},
		{"attribute", backendtest.SetXattr("dir/sub/f", "user.x", "1"), []string{"C /dir", "C /dir/sub", "C /dir/sub/f"}},
		{"attribute of a directory", backendtest.SetXattr("dir/sub", "trusted.x", strings.Repeat("1", 1000)), []string{"C /dir", "C /dir/sub"}},
		{"foreign attributes", steps(backendtest.SetXattr("dir", "trusted.overlay.opaque", "y"), backendtest.SetXattr("dir", "user.overlay.x", "y")), []string{}},
		{"device number", steps(backendtest.Remove("dev"), backendtest.CharDevice("dev", 0o600, 1, 5), backendtest.SetTime("dev", day1)), []string{"C /dev"}},
		{"link target", steps(backendtest.Remove("link"), backendtest.Symlink("b", "link"), backendtest.SetTime("link", day1)), []string{"C /link"}},
		{"kind of file", steps(backendtest.Remove("fifo"), backendtest.CreateFile("fifo", nil, 0o600), backendtest.SetTime("fifo", day1)), []string{"C /fifo"}},
		{"directory mode", backendtest.Chmod("dir/sub", 0o700), []string{"C /dir", "C /dir/sub"}},
		{"directory time", backendtest.SetTime("dir", day2), []string{}},
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
		{"hard link", backendtest.Link("file", "again"), []string{"A /again"}},
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
	a, b := backendtest.LoopFS(t, "tmpfs", 1<<20, ""), backendtest.LoopFS(t, "tmpfs", 1<<20, "")
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

// TestOneTick: a file that is written anew before the clock of the file system moves on keeps its time. Docker's rules would miss that.
func TestOneTick(t *testing.T) {
	upper, lower := t.TempDir(), t.TempDir()
	long := strings.Repeat("x", 70000)
	for name, c := range map[string]struct {
		aged         bool
		upper, lower string
	}{
		"changed": {false, "new", "old"}, "same": {false, "old", "old"}, "long ago": {true, "new", "old"},
		"empty": {false, "", ""}, "end differs": {false, long + "1", long + "2"},
	} {
		assert.NilError(t, backendtest.CreateFile(name, []byte(c.lower), 0o644)(lower))
		assert.NilError(t, backendtest.CreateFile(name, []byte(c.upper), 0o644)(upper))
		if c.aged {
			assert.NilError(t, backendtest.SetTime(name, day1)(upper))
		}
		fi, err := os.Stat(filepath.Join(upper, name))
		assert.NilError(t, err)
		assert.NilError(t, backendtest.SetTime(name, fi.ModTime())(lower))
	}
	got := list(t, treediff.Changes(t.Context(), upper, lower, treediff.Options{}))
	assert.DeepEqual(t, got, []string{"C /changed", "C /end differs"})
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

// TestOracle compares with Docker's own code on random trees.
func TestOracle(t *testing.T) {
	requireRoot(t)
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			upper, lower := pairOfTrees(t, mutations(rnd, 200))
			assert.NilError(t, mutations(rnd, 40)(upper))
			for _, other := range []string{lower, ""} {
				want, err := archive.ChangesDirs(upper, other)
				assert.NilError(t, err)
				assert.DeepEqual(t, list(t, treediff.Changes(t.Context(), upper, other, treediff.Options{})), inPathOrder(want))
			}
		})
	}
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
	switch rnd.IntN(12) {
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
