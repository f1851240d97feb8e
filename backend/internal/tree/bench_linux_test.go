package tree_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend/backendtest"
	"strata/backend/internal/loopfs"
	"strata/backend/internal/tree"
)

// BenchmarkTree measures, copies and removes a tree like that of a system, of 70,000 names.
func BenchmarkTree(b *testing.B) {
	dir := loopfs.New(b, "tmpfs", 8<<30, "")
	src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
	assert.NilError(b, os.Mkdir(src, 0o755))
	assert.NilError(b, backendtest.Root(1, 70_000)(src))
	b.Run("usage", func(b *testing.B) {
		defer reportCPU(b)()
		for b.Loop() {
			_, err := tree.Usage(b.Context(), src)
			assert.NilError(b, err)
		}
	})
	b.Run("copy and remove", func(b *testing.B) {
		defer reportCPU(b)()
		for b.Loop() {
			assert.NilError(b, tree.Copy(b.Context(), src, dst))
			assert.NilError(b, tree.RemoveAll(b.Context(), dst))
		}
	})
}

// reportCPU adds the processor time of a run, which others on the machine change less.
func reportCPU(b *testing.B) func() {
	before := cpu(b)
	return func() { b.ReportMetric(float64(cpu(b)-before)/1e6/float64(b.N), "cpu-ms/op") }
}

func cpu(b *testing.B) int64 {
	b.Helper()
	var u unix.Rusage
	assert.NilError(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return u.Utime.Nano() + u.Stime.Nano()
}
