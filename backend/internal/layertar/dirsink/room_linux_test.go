package dirsink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend/internal/layertar/tarlog"
	"strata/backend/internal/layertar/tartest"
	"strata/backend/internal/layertar/unpack"
)

// TestFewDescriptors holds that a wide and deep tar is unpacked, replaced and settled where a process may have few files open, also
// by several at the same time, and that one is given back.
func TestFewDescriptors(t *testing.T) {
	tartest.NeedRoot(t)
	const inChild = "STRATA_TEST_NOFILE"
	if os.Getenv(inChild) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFewDescriptors$", "-test.v")
		cmd.Env = append(os.Environ(), inChild+"=64")
		out, err := cmd.CombinedOutput()
		assert.NilError(t, err, "%.4000s", out)
		assert.Assert(t, strings.Contains(string(out), "--- PASS: TestFewDescriptors/2"), "%.4000s", out)
		return
	}
	below := t.TempDir()
	dirs := map[int][]string{}
	for _, n := range []int{1, 2} { // before the limit, under which the test's own clean-up has a hard time
		for range n {
			dirs[n] = append(dirs[n], filepath.Join(t.TempDir(), "layer"))
			tartest.Mkdir(t, dirs[n][len(dirs[n])-1])
		}
	}
	assert.NilError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 64, Max: 64}))
	first, second := fewTars(t)
	for _, n := range []int{1, 2} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			var group errgroup.Group
			for _, dir := range dirs[n] {
				group.Go(func() error { return applyFew(t.Context(), &plainBelow{dir: below}, dir, first, second, n == 1) })
			}
			assert.NilError(t, group.Wait())
		})
	}
}

// fewTars returns a tar with many directories at a time, and one that replaces the deep ones.
func fewTars(t *testing.T) (first, second []byte) {
	var members []tartest.Member
	deep := strings.Repeat("d/", 3000)
	for range 2 {
		for i := range 300 {
			dir := fmt.Sprintf("wide%d/", i)
			members = append(members, tartest.Dir(dir), tartest.File(dir+"f", strings.Repeat("x", 100*i)), tartest.Link(dir+"g", fmt.Sprintf("wide%d/f", i/2)))
		}
		members = append(members, tartest.File(deep+"f", strings.Repeat("y", 1<<20)), tartest.File(deep[:1000]+"g", ""))
	}
	return tartest.Make(t, members...), tartest.Make(t, tartest.Symlink("d", "nowhere"), tartest.File(".wh.wide1", ""), tartest.File("wide2/.wh..wh..opq", ""))
}

// applyFew unpacks both tars and settles them. With replay it compares the first with what its log gives back.
func applyFew(ctx context.Context, below *plainBelow, dir string, first, second []byte, replay bool) error {
	w, err := tarlog.Create(dir + ".log")
	if err != nil {
		return err
	}
	o := Options{Whiteouts: overlay}
	if _, err := Apply(ctx, dir, bytes.NewReader(first), o, unpack.Options{Log: w}); err != nil {
		return errors.Join(err, w.Abort())
	}
	if err := w.Close(); err != nil {
		return err
	}
	if replay {
		if err := replayFew(ctx, dir, first); err != nil {
			return err
		}
	}
	if _, err := Apply(ctx, dir, bytes.NewReader(second), o, unpack.Options{}); err != nil {
		return err
	}
	o.Below = below.open
	return Settle(ctx, dir, o)
}

func replayFew(ctx context.Context, dir string, want []byte) error {
	var got bytes.Buffer
	if err := replay(ctx, dir+".log", dir, &got); err != nil {
		return err
	}
	if !bytes.Equal(got.Bytes(), want) {
		return errors.New("the tar came back different")
	}
	return nil
}

// TestNearStaysOpen holds that the directory from which another one is opened is not closed meanwhile to make room for that: its
// number could be that of a directory of another layer by then.
func TestNearStaysOpen(t *testing.T) {
	layer := t.TempDir()
	deep := strings.Repeat("d/", farPath/2) + "d"
	makeDeep(t, layer, deep+"/end")
	var busy []*dir
	settle := func() error {
		for _, d := range busy {
			d.unpin()
		}
		busy = nil
		return nil
	}
	tree, err := newTree(layer, settle)
	assert.NilError(t, err)
	tree.opened = func(string) {}
	for i := range 2 * minDirs {
		name := fmt.Sprint("busy", i)
		tartest.Mkdir(t, filepath.Join(layer, name))
		d, err := tree.lookup(name)
		assert.NilError(t, err)
		busy = append(busy, d)
	}
	near, err := tree.lookup(deep)
	assert.NilError(t, err)
	near.unpin()
	free := takeDescriptors(t)
	end, err := tree.lookup(deep + "/end")
	free()
	assert.NilError(t, err)
	assert.Equal(t, tree.dirs[deep], near, "it was closed")
	var at, want unix.Stat_t
	assert.NilError(t, unix.Fstat(end.fd, &at))
	assert.NilError(t, unix.Fstatat(near.fd, "end", &want, 0))
	assert.Equal(t, at.Ino, want.Ino)
	end.unpin()
	assert.NilError(t, tree.close())
}

// makeDeep makes all directories on a path that may be longer than one can say.
func makeDeep(t *testing.T, root, path string) {
	t.Helper()
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY, 0)
	assert.NilError(t, err)
	for name := range strings.SplitSeq(path, "/") {
		assert.NilError(t, unix.Mkdirat(fd, name, 0o755))
		next, err := unix.Openat(fd, name, unix.O_PATH|unix.O_DIRECTORY, 0)
		assert.NilError(t, err)
		assert.NilError(t, unix.Close(fd))
		fd = next
	}
	assert.NilError(t, unix.Close(fd))
}

// takeDescriptors leaves the process none, until free is called.
func takeDescriptors(t *testing.T) (free func()) {
	t.Helper()
	var old unix.Rlimit
	assert.NilError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	var taken []int
	first, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	assert.NilError(t, err)
	taken = append(taken, first)
	assert.NilError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(first) + 16, Max: old.Max}))
	for {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			assert.ErrorIs(t, err, unix.EMFILE)
			break
		}
		taken = append(taken, fd)
	}
	return func() {
		for _, fd := range taken {
			assert.NilError(t, unix.Close(fd))
		}
		assert.NilError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &old))
	}
}
