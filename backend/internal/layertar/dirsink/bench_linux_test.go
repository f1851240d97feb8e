package dirsink

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/docker/docker/pkg/archive"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/internal/layertar/tarlog"
	"strata/backend/internal/layertar/tartest"
	"strata/backend/internal/layertar/unpack"
)

// The benchmarks unpack, log and replay three kinds of layers and do the same with GNU tar and with
// docker's own unpacking:
//
//	go test -bench . -benchtime 3x -run '^$'
//
// LAYERTAR_BENCH_DIR is where they unpack (default: the temporary directory), LAYERTAR_BENCH_BIG the
// size of the big layer in MiB (256), LAYERTAR_BENCH_DEB a directory whose tar stands for a
// distribution (/usr/share and /usr/lib are a good start); without it that kind is left out.

// benchTars makes the tars, in files.
func benchTars(b *testing.B, dir string) map[string]string {
	b.Helper()
	big := 256
	if s := os.Getenv("LAYERTAR_BENCH_BIG"); s != "" {
		n, err := strconv.Atoi(s)
		assert.NilError(b, err)
		big = n
	}
	tars := map[string]string{
		"many": filepath.Join(dir, "many.tar"),
		"big":  filepath.Join(dir, "big.tar"),
	}
	writeTar(b, tars["many"], 600, 100, 1500)
	writeTar(b, tars["big"], 1, 2, big<<20)
	if root := os.Getenv("LAYERTAR_BENCH_DEB"); root != "" {
		tars["deb"] = filepath.Join(dir, "deb.tar")
		cmd := exec.Command("tar", "--format=pax", "--sort=name", "--one-file-system", "-cf", tars["deb"], "-C", root, ".")
		out, err := cmd.CombinedOutput()
		assert.NilError(b, err, "%s", out)
	}
	return tars
}

// writeTar writes a tar with dirs directories of files files, of between half of size and size bytes.
func writeTar(b *testing.B, path string, dirs, files, size int) {
	b.Helper()
	f, err := os.Create(path)
	assert.NilError(b, err)
	w := tar.NewWriter(f)
	r := rand.NewChaCha8([32]byte{1})
	body := make([]byte, size)
	for d := range dirs {
		dir := fmt.Sprintf("usr/lib/module%04d/", d)
		h := &tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: 0o755, ModTime: time.Unix(1600000000, 0)}
		assert.NilError(b, w.WriteHeader(h))
		for i := range files {
			_, err := r.Read(body[:min(size, 4096)])
			assert.NilError(b, err)
			n := size/2 + (i*7919)%(size/2+1)
			h := &tar.Header{Name: fmt.Sprintf("%sfile%04d.js", dir, i), Mode: 0o644, Size: int64(n), ModTime: time.Unix(1600000000, 0)}
			assert.NilError(b, w.WriteHeader(h))
			_, err = w.Write(body[:n])
			assert.NilError(b, err)
		}
	}
	assert.NilError(b, w.Close())
	assert.NilError(b, f.Close())
}

func benchDir(b *testing.B) string {
	b.Helper()
	dir, err := os.MkdirTemp(os.Getenv("LAYERTAR_BENCH_DIR"), "layertar-bench")
	assert.NilError(b, err)
	b.Cleanup(func() { assert.NilError(b, os.RemoveAll(dir)) })
	return dir
}

// benchUnpack times fill on a new directory each time. Write-back and removal are not timed.
func benchUnpack(b *testing.B, dir, path string, fill func(dir string, r io.Reader) error) {
	st, err := os.Stat(path)
	assert.NilError(b, err)
	b.SetBytes(st.Size())
	var used time.Duration
	for b.Loop() {
		b.StopTimer()
		to := filepath.Join(dir, "layer")
		tartest.Mkdir(b, to)
		f, err := os.Open(path)
		assert.NilError(b, err)
		before := cpuTime(b)
		b.StartTimer()
		err = fill(to, f)
		b.StopTimer()
		used += cpuTime(b) - before
		assert.NilError(b, err)
		assert.NilError(b, f.Close())
		assert.NilError(b, os.RemoveAll(to))
		assert.NilError(b, Flush(context.Background(), dir))
		b.StartTimer()
	}
	b.ReportMetric(float64(used.Milliseconds())/float64(b.N), "cpu-ms")
}

// cpuTime is what the process and its children have used: the figure to compare on a busy machine.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var sum int64
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		assert.NilError(b, unix.Getrusage(who, &u))
		sum += unix.TimevalToNsec(u.Utime) + unix.TimevalToNsec(u.Stime)
	}
	return time.Duration(sum)
}

func BenchmarkUnpack(b *testing.B) {
	tartest.NeedRoot(b)
	dir := benchDir(b)
	ctx := context.Background()
	for kind, path := range benchTars(b, dir) {
		b.Run(kind+"/docker", func(b *testing.B) {
			benchUnpack(b, dir, path, func(to string, r io.Reader) error {
				return archive.Unpack(r, to, &archive.TarOptions{WhiteoutFormat: archive.OverlayWhiteoutFormat})
			})
		})
		b.Run(kind+"/gnutar", func(b *testing.B) {
			benchUnpack(b, dir, path, func(to string, r io.Reader) error {
				cmd := exec.Command("tar", "--numeric-owner", "-xpf", "-", "-C", to)
				cmd.Stdin = r
				return cmd.Run()
			})
		})
		for _, n := range []int{1, 2, 3, 4, 6} {
			b.Run(fmt.Sprintf("%s/apply-%d", kind, n), func(b *testing.B) {
				benchUnpack(b, dir, path, func(to string, r io.Reader) error {
					_, err := Apply(ctx, to, r, Options{Whiteouts: backend.WhiteoutsOverlay, Workers: n}, unpack.Options{})
					return err
				})
			})
		}
		b.Run(kind+"/apply-log", func(b *testing.B) {
			benchUnpack(b, dir, path, func(to string, r io.Reader) error {
				l, err := tarlog.Create(filepath.Join(dir, "log"))
				if err != nil {
					return err
				}
				if _, err := Apply(ctx, to, r, Options{Whiteouts: backend.WhiteoutsOverlay}, unpack.Options{Log: l}); err != nil {
					return err
				}
				return l.Close()
			})
		})
	}
}

func BenchmarkReplay(b *testing.B) {
	tartest.NeedRoot(b)
	dir := benchDir(b)
	ctx := context.Background()
	for kind, path := range benchTars(b, dir) {
		to := filepath.Join(dir, kind)
		tartest.Mkdir(b, to)
		data, err := os.ReadFile(path)
		assert.NilError(b, err)
		w, err := tarlog.Create(to + ".log")
		assert.NilError(b, err)
		_, err = Apply(ctx, to, bytes.NewReader(data), Options{Whiteouts: backend.WhiteoutsOverlay}, unpack.Options{Log: w})
		assert.NilError(b, err)
		assert.NilError(b, w.Close())
		b.Run(kind, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				assert.NilError(b, replay(ctx, to+".log", to, io.Discard))
			}
		})
	}
}
