//go:build unix

package regular

import (
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"gotest.tools/v3/assert"
)

// Read and ReadOwn read regular files alone, and wait for nobody.
func TestRead(t *testing.T) {
	const most = 10
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	assert.NilError(t, os.WriteFile(path("whole"), make([]byte, most), 0o600))
	assert.NilError(t, os.Symlink("whole", path("link")))
	for _, name := range []string{"whole", "link"} {
		text, err := Read(path(name), most)
		assert.NilError(t, err)
		assert.Equal(t, len(text), most)
	}
	assert.NilError(t, os.WriteFile(path("large"), make([]byte, most+1), 0o600))
	assert.NilError(t, syscall.Mkfifo(path("fifo"), 0o600))
	assert.NilError(t, os.Symlink("fifo", path("link to a fifo")))
	assert.NilError(t, os.Symlink(os.DevNull, path("device")))
	l, err := net.Listen("unix", path("socket"))
	assert.NilError(t, err)
	defer l.Close()
	for name, want := range map[string]string{
		"large": "larger than 10 bytes", "fifo": "no regular file (prw", "link to a fifo": "no regular file (prw",
		"device": "no regular file (Dcrw", "socket": "no regular file (Srw", "": "no regular file (drw",
	} {
		_, err := Read(path(name), most)
		assert.ErrorContains(t, err, want)
		assert.ErrorContains(t, err, path(name))
		assert.Assert(t, errdefs.IsFailedPrecondition(err), "%v", err)
		_, err = ReadOwn(path(name), most)
		assert.Assert(t, errdefs.IsFailedPrecondition(err), "%v", err)
	}
	_, err = Read(path("none"), most)
	assert.ErrorIs(t, err, fs.ErrNotExist)
	text, err := ReadOwn(path("whole"), most)
	assert.NilError(t, err)
	assert.Equal(t, len(text), most)
	_, err = ReadOwn(path("link"), most)
	assert.ErrorContains(t, err, "no regular file (Lrwx")
}
