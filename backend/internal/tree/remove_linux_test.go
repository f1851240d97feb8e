package tree_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend/backendtest"
	"strata/backend/internal/loopfs"
	"strata/backend/internal/tree"
)

// fsSize is the size of the file systems under test, bytes, all of it sparse.
const fsSize = 1 << 30

func TestMain(m *testing.M) { os.Exit(backendtest.Main(m)) }

func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes devices, owners and file systems")
	}
}

// onEach runs f on each kind of file system that a store may lie on.
func onEach(t *testing.T, f func(t *testing.T, dir string)) {
	for _, kind := range []string{"ext4", "xfs", "btrfs", "tmpfs"} {
		t.Run(kind, func(t *testing.T) { f(t, loopfs.New(t, kind, fsSize, "")) })
	}
}

func apply(t *testing.T, dir string, steps ...backendtest.Step) {
	t.Helper()
	assert.NilError(t, backendtest.Steps(steps...)(dir))
}

func assertGone(t *testing.T, path string) {
	t.Helper()
	_, err := os.Lstat(path)
	assert.Assert(t, errors.Is(err, os.ErrNotExist), "%s: %v", path, err)
}

func TestRemoveAll(t *testing.T) {
	onEach(t, func(t *testing.T, dir string) {
		ledger := backendtest.NewLedger(t, dir)
		defer ledger.Check(t)
		outside := filepath.Join(dir, "outside")
		apply(t, dir, backendtest.Mkdir("outside", 0o755), backendtest.CreateFile("outside/keep", []byte("x"), 0o644))
		cases := map[string]backendtest.Step{
			"nothing":        backendtest.Steps(),
			"file":           backendtest.CreateFile("t", nil, 0o644),
			"symbolic link":  backendtest.Symlink(outside, "t"),
			"empty":          backendtest.Mkdir("t", 0),
			"links outwards": backendtest.Steps(backendtest.Mkdir("t", 0o755), backendtest.Symlink(outside, "t/d"), backendtest.Link("outside/keep", "t/f")),
			"root":           backendtest.Steps(backendtest.Mkdir("t", 0o755), func(root string) error { return backendtest.Root(3, 3000)(filepath.Join(root, "t")) }),
			"special":        backendtest.Steps(backendtest.Mkdir("t", 0o755), backendtest.Fifo("t/p", 0), backendtest.CharDevice("t/c", 0, 0, 0)),
			"deep and wide":  bushy("t", 100),
			"large":          backendtest.Steps(backendtest.Mkdir("t", 0o755), manyFiles("t", 12000)),
		}
		for name, make := range cases {
			t.Run(name, func(t *testing.T) {
				apply(t, dir, make)
				for range 2 { // it may be repeated
					assert.NilError(t, tree.RemoveAll(t.Context(), filepath.Join(dir, "t")))
				}
				assertGone(t, filepath.Join(dir, "t"))
				_, err := os.Stat(filepath.Join(outside, "keep"))
				assert.NilError(t, err)
			})
		}
	})
	assert.NilError(t, tree.RemoveAll(t.Context(), filepath.Join(t.TempDir(), "no", "such", "directory")))
}

// bushy makes directories within directories, more than a walk keeps open, with others beside them.
func bushy(dir string, levels int) backendtest.Step {
	steps := []backendtest.Step{backendtest.Mkdir(dir, 0o755)}
	for range levels {
		for _, name := range []string{"a", "b", "y", "z"} {
			steps = append(steps, backendtest.Mkdir(filepath.Join(dir, name), 0o755), manyFiles(filepath.Join(dir, name), 3))
		}
		dir = filepath.Join(dir, "y")
	}
	return backendtest.Steps(steps...)
}

// manyFiles makes empty files, more than one call of getdents shows.
func manyFiles(dir string, n int) backendtest.Step {
	return func(root string) error {
		for i := range n {
			f, err := os.Create(filepath.Join(root, dir, fmt.Sprintf("a-file-with-a-rather-long-name-%d", i)))
			if err != nil {
				return err
			}
			if err := f.Close(); err != nil {
				return err
			}
		}
		return nil
	}
}

// TestRemoveAllProtected removes what chattr +i and +a protect, directories among it.
func TestRemoveAllProtected(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs", "btrfs"} { // tmpfs has such flags from 6.6 on only
		t.Run(kind, func(t *testing.T) {
			dir := loopfs.New(t, kind, fsSize, "")
			apply(t, dir, backendtest.MkdirAll("t/immutable"), backendtest.MkdirAll("t/append"),
				backendtest.CreateFile("t/immutable/f", nil, 0o644), backendtest.CreateFile("t/append/f", nil, 0o644),
				backendtest.CreateFile("t/f", nil, 0o644))
			for path, flag := range map[string]int{
				"t/immutable/f": 0x10, "t/append/f": 0x20, "t/f": 0x30, "t/immutable": 0x10, "t/append": 0x20, "t": 0x10,
			} {
				setFlags(t, filepath.Join(dir, path), flag)
			}
			assert.Assert(t, os.Remove(filepath.Join(dir, "t/f")) != nil, "the flags protect nothing")
			assert.NilError(t, tree.RemoveAll(t.Context(), filepath.Join(dir, "t")))
			assertGone(t, filepath.Join(dir, "t"))
		})
	}
}

func setFlags(t *testing.T, path string, flags int) {
	t.Helper()
	f, err := os.Open(path)
	assert.NilError(t, err)
	defer f.Close()
	assert.NilError(t, unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags))
}

// TestRemoveAllMountPoint leaves what is mounted inside alone, even if it is of the same file system.
func TestRemoveAllMountPoint(t *testing.T) {
	onEach(t, func(t *testing.T, dir string) {
		apply(t, dir, backendtest.MkdirAll("data"), backendtest.CreateFile("data/keep", []byte("x"), 0o644))
		data := filepath.Join(dir, "data")
		for name, c := range map[string]struct{ source, target, kind string }{
			"bind":      {data, "t/a/b", ""},
			"bind file": {data + "/keep", "t/a/f", ""},
			"bind root": {data, "t", ""},
			"tmpfs":     {"tmpfs", "t/a/b", "tmpfs"},
		} {
			t.Run(name, func(t *testing.T) {
				apply(t, dir, backendtest.MkdirAll("t/a/b"), backendtest.CreateFile("t/a/f", nil, 0o644))
				target := filepath.Join(dir, c.target)
				flags := uintptr(0)
				if c.kind == "" {
					flags = unix.MS_BIND
				}
				assert.NilError(t, unix.Mount(c.source, target, c.kind, flags, ""))
				err := tree.RemoveAll(t.Context(), filepath.Join(dir, "t"))
				uerr := unix.Unmount(target, 0)
				assert.ErrorContains(t, err, target+" is a mount point")
				assert.Assert(t, errdefs.IsFailedPrecondition(err), "%v", err)
				assert.NilError(t, uerr)
				content, rerr := os.ReadFile(filepath.Join(data, "keep"))
				assert.NilError(t, rerr)
				assert.Equal(t, string(content), "x")
				assert.NilError(t, tree.RemoveAll(t.Context(), filepath.Join(dir, "t")))
				assertGone(t, filepath.Join(dir, "t"))
			})
		}
	})
}

// TestRemoveAllDeep removes a tree whose paths are far too long for any system call.
func TestRemoveAllDeep(t *testing.T) {
	requireRoot(t)
	onEach(t, func(t *testing.T, dir string) {
		const depth = 3000
		fd, err := unix.Open(dir, unix.O_DIRECTORY, 0)
		assert.NilError(t, err)
		for range depth {
			assert.NilError(t, unix.Mkdirat(fd, "directory", 0o755))
			next, err := unix.Openat(fd, "directory", unix.O_DIRECTORY, 0)
			assert.NilError(t, err)
			assert.NilError(t, unix.Close(fd))
			fd = next
		}
		assert.NilError(t, unix.Close(fd))
		var before unix.Rlimit
		assert.NilError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &before))
		defer func() { assert.NilError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &before)) }()
		assert.NilError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 700, Max: before.Max}))
		assert.NilError(t, tree.RemoveAll(t.Context(), filepath.Join(dir, "directory")))
		assertGone(t, filepath.Join(dir, "directory"))
	})
}

func TestRemoveAllCancelled(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "t")
	assert.NilError(t, os.MkdirAll(filepath.Join(dir, "sub"), 0o755))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.ErrorIs(t, tree.RemoveAll(ctx, dir), context.Canceled)
	_, err := os.Stat(dir)
	assert.NilError(t, err)
}

func BenchmarkRemoveAll(b *testing.B) {
	for _, kind := range []string{"ext4", "xfs", "btrfs"} {
		b.Run(kind, func(b *testing.B) {
			dir := loopfs.New(b, kind, 4<<30, "")
			for b.Loop() {
				b.StopTimer()
				for i := range 60 {
					sub := filepath.Join("t", fmt.Sprint(i))
					if err := backendtest.Steps(backendtest.MkdirAll(sub), manyFiles(sub, 1000))(dir); err != nil {
						b.Fatal(err)
					}
				}
				b.StartTimer()
				if err := tree.RemoveAll(b.Context(), filepath.Join(dir, "t")); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
