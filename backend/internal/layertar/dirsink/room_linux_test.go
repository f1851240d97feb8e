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
