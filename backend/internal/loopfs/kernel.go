package loopfs

import (
	"compress/gzip"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
)

// RequireKernel skips a test on a kernel that says that it is built without an option, such as
// CONFIG_QFMT_V2.
func RequireKernel(t testing.TB, option string) {
	t.Helper()
	f, err := os.Open("/proc/config.gz")
	if errors.Is(err, os.ErrNotExist) {
		return // it does not say how it is built
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "\n"+option+"=") {
		t.Skipf("the kernel is built without %s", option)
	}
}
