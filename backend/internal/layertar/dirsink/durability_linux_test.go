package dirsink

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/internal/layertar/tartest"
	"strata/backend/internal/layertar/unpack"
)

// BenchmarkDurable compares ways to make a fresh layer durable. Each is timed from the first byte of
// the tar to the end of the flush; the metrics split that into unpacking and flushing. It wants a
// quiet machine:
//
//	go test -bench Durable -benchtime 3x -run '^$'
//
// It runs on loop images and on LAYERTAR_BENCH_DIR. The package comment has what we measured.
func BenchmarkDurable(b *testing.B) {
	tartest.NeedRoot(b)
	work := benchDir(b)
	tars := benchTars(b, work)
	places := map[string]string{"plain": work}
	for _, kind := range []string{"ext4", "xfs", "btrfs"} {
		places[kind] = loopMount(b, kind, 4<<30)
	}
	for kind, path := range tars {
		for place, dir := range places {
			for _, way := range []string{"durable", "syncfs", "fdatasync"} {
				b.Run(fmt.Sprintf("%s/%s/%s", kind, place, way), func(b *testing.B) { benchDurable(b, dir, path, way) })
			}
		}
	}
}

func benchDurable(b *testing.B, dir, path, way string) {
	ctx := context.Background()
	var filling, flush time.Duration
	for b.Loop() {
		b.StopTimer()
		to := filepath.Join(dir, "layer")
		tartest.Mkdir(b, to)
		f, err := os.Open(path)
		assert.NilError(b, err)
		b.StartTimer()
		start := time.Now()
		_, err = Apply(ctx, to, f, Options{Whiteouts: backend.WhiteoutsOverlay, Durable: way == "durable"}, unpack.Options{})
		assert.NilError(b, err)
		filling += time.Since(start)
		start = time.Now()
		if way == "fdatasync" {
			assert.NilError(b, syncEach(to))
		}
		if way != "durable" {
			assert.NilError(b, Flush(ctx, to)) // also for the directories
		}
		flush += time.Since(start)
		b.StopTimer()
		assert.NilError(b, f.Close())
		assert.NilError(b, os.RemoveAll(to))
		assert.NilError(b, Flush(ctx, dir))
		b.StartTimer()
	}
	b.ReportMetric(float64(filling.Milliseconds())/float64(b.N), "unpack-ms")
	b.ReportMetric(float64(flush.Milliseconds())/float64(b.N), "flush-ms")
}

// syncEach calls fdatasync for every regular file, eight at a time.
func syncEach(dir string) error {
	paths := make(chan string, 64)
	var group sync.WaitGroup
	var once sync.Once
	var first error
	for range 8 {
		group.Go(func() {
			for p := range paths {
				if err := syncOne(p); err != nil {
					once.Do(func() { first = err })
				}
			}
		})
	}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			paths <- p
		}
		return err
	})
	close(paths)
	group.Wait()
	if err == nil {
		err = first
	}
	return err
}

func syncOne(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Fdatasync(int(f.Fd()))
}

// loopMount makes a file system on a loop image and mounts it until the test ends.
func loopMount(t testing.TB, kind string, size int64) string {
	t.Helper()
	tartest.NeedRoot(t)
	dir, err := os.MkdirTemp(os.Getenv("LAYERTAR_BENCH_DIR"), "layertar-loop")
	assert.NilError(t, err)
	t.Cleanup(func() { assert.NilError(t, os.RemoveAll(dir)) })
	image, target := filepath.Join(dir, "image"), filepath.Join(dir, "mnt")
	tartest.Mkdir(t, target)
	f, err := os.Create(image)
	assert.NilError(t, err)
	assert.NilError(t, f.Truncate(size))
	assert.NilError(t, f.Close())
	run(t, "mkfs."+kind, image)
	run(t, "mount", "-o", "loop", image, target) // mount makes the loop device free itself
	t.Cleanup(func() {
		run(t, "umount", target)
		assert.Assert(t, loopGone(t, image), "loop device is left over")
	})
	return target
}

// loopGone waits for the loop device to free itself, which the kernel does after umount returns.
func loopGone(t testing.TB, image string) bool {
	t.Helper()
	for range 100 {
		out, err := exec.Command("losetup", "-j", image).CombinedOutput()
		assert.NilError(t, err)
		if len(out) == 0 {
			return true
		}
		time.Sleep(100 * time.Millisecond)
	}
	return false
}

func run(t testing.TB, name string, args ...string) {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	assert.NilError(t, err, "%s %s: %s", name, strings.Join(args, " "), out)
}
