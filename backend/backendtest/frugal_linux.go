package backendtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"strata/backend/internal/loopfs"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
)

// What Frugal permits: as many descriptors as an unlucky init system does, and half of a small container's memory.
const (
	frugalFiles  = 256
	frugalMemory = 128 << 20
)

// childDir tells a child what prepare returned.
const childDir = "STRATA_TEST_CHILD_DIR"

// Frugal runs use in a process of its own that may open few files, and fails the test if that took more memory than 128 MiB.
// prepare runs before, without limits; what it returns is what use gets. Whatever the test does before it calls Frugal is
// done in both processes.
func Frugal(t *testing.T, prepare func(t *testing.T) string, use func(t *testing.T, dir string)) {
	t.Helper()
	inChild(t, prepare, func(t *testing.T, dir string) {
		limit := unix.Rlimit{Cur: frugalFiles, Max: frugalFiles}
		assert.NilError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit))
		use(t, dir)
		most := residentPeak(t)
		t.Logf("took %d MiB", most>>20)
		assert.Check(t, raced() || most <= frugalMemory, "took %d MiB of memory", most>>20)
	})
}

// inChild runs use in a process of its own, with what prepare returns in this one.
func inChild(t *testing.T, prepare func(t *testing.T) string, use func(t *testing.T, dir string)) {
	t.Helper()
	loopfs.RequireRoot(t)
	if dir, child := os.LookupEnv(childDir); child {
		use(t, dir)
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run="+pattern(t.Name()), "-test.count=1", "-test.v")
	cmd.Env = append(os.Environ(), childDir+"="+prepare(t))
	out, err := cmd.CombinedOutput()
	assert.NilError(t, err, "%s", out)
	assert.Assert(t, strings.Contains(string(out), "--- PASS"), "%s", out)
	for line := range strings.Lines(string(out)) {
		if _, took, ok := strings.Cut(line, ": took "); ok {
			t.Log("took " + strings.TrimSpace(took))
		}
	}
}

// residentPeak returns the most memory that this process has had, bytes.
func residentPeak(t *testing.T) int64 {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	assert.NilError(t, err)
	for line := range strings.Lines(string(status)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	t.Fatal("no VmHWM in /proc/self/status")
	return 0
}

// raced reports whether the race detector is on, which multiplies memory.
func raced() bool {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return false
	}
	for _, s := range info.Settings {
		if s.Key == "-race" {
			return s.Value == "true"
		}
	}
	return false
}

// EachDepth runs use with trees that no path leads through, frugally, on a file system of that kind: dir holds directories called name inside each
// other, and a file in the innermost. The one with the most levels is on a tmpfs: elsewhere it takes a minute to make.
func EachDepth(t *testing.T, kind string, use func(t *testing.T, dir, name string, levels int)) {
	t.Helper()
	for _, c := range []struct {
		name   string
		levels int
		kind   string
	}{{strings.Repeat("n", 250), 5000, kind}, {"d", 100_000, "tmpfs"}} {
		if c.kind != kind {
			continue
		}
		t.Run(fmt.Sprintf("%s, %d levels", kind, c.levels), func(t *testing.T) {
			Frugal(t, func(t *testing.T) string {
				t.Helper()
				dir := filepath.Join(loopfs.New(t, kind, 8<<30, ""), "deep")
				assert.NilError(t, os.Mkdir(dir, 0o755))
				assert.NilError(t, Deep(c.name, c.levels, "x")(dir))
				return dir
			}, func(t *testing.T, dir string) { use(t, dir, c.name, c.levels) })
		})
	}
}
