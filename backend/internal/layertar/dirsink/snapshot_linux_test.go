package dirsink

import (
	"testing"

	"golang.org/x/sys/unix"
)

// umask sets the process's umask for the length of a test.
func umask(t testing.TB, mask int) {
	t.Helper()
	old := unix.Umask(mask)
	t.Cleanup(func() { unix.Umask(old) })
}
