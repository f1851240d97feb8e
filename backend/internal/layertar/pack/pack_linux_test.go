package pack

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend"

	"strata/backend/internal/layertar/tartest"
)

func TestWriteChanges(t *testing.T) {
	tartest.NeedRoot(t)
	dir := t.TempDir()
	long := strings.Repeat("n", 150)
	at := func(name string) string { return filepath.Join(dir, name) }
	tartest.Mkdir(t, at("d"))
	assert.NilError(t, os.WriteFile(at("d/file"), []byte("hello"), 0o600))
	assert.NilError(t, unix.Setxattr(at("d/file"), "user.colour", []byte{1, 0, 2}, 0))
	assert.NilError(t, unix.Setxattr(at("d/file"), "trusted.overlay.redirect", []byte("/etc"), 0))
	assert.NilError(t, os.Chown(at("d/file"), 3000000, 4)) // before the mode: it clears setuid
	assert.NilError(t, os.Chmod(at("d/file"), os.ModeSetuid|0o711))
	assert.NilError(t, os.Link(at("d/file"), at("d/hard")))
	assert.NilError(t, os.Symlink("file", at("d/soft")))
	assert.NilError(t, unix.Mknod(at("d/dev"), unix.S_IFCHR|0o600, int(unix.Mkdev(5, 300))))
	assert.NilError(t, unix.Mkfifo(at("d/pipe"), 0o640))
	assert.NilError(t, os.WriteFile(at("d/"+long), nil, 0o644))
	when := time.Unix(1234567890, 123456789)
	assert.NilError(t, os.Chtimes(at("d/file"), when, when))

	changes := tartest.Added("/d", "/d/dev", "/d/file", "/d/hard", "/d/"+long, "/d/pipe", "/d/soft")
	changes = append(changes, backend.Change{Path: "/d/was", Kind: backend.Deleted}, backend.Change{Path: "/x", Kind: backend.Deleted})
	var out, again bytes.Buffer
	assert.NilError(t, Changes(context.Background(), &out, dir, tartest.Changes(changes...), Options{}))
	assert.NilError(t, Changes(context.Background(), &again, dir, tartest.Changes(changes...), Options{}))
	assert.Assert(t, bytes.Equal(out.Bytes(), again.Bytes()))

	got := tartest.Read(t, out.Bytes())
	var names []string
	for _, m := range got {
		names = append(names, m.Name)
	}
	assert.DeepEqual(t, names, []string{"d/", "d/dev", "d/file", "d/hard", "d/" + long, "d/pipe", "d/soft", "d/.wh.was", ".wh.x"})
	file := got[2]
	assert.Equal(t, file.Body, "hello")
	assert.Equal(t, file.Uid, 3000000)
	assert.Equal(t, file.Mode, int64(0o4711))
	assert.Assert(t, file.ModTime.Equal(when))
	assert.Equal(t, file.PAXRecords["SCHILY.xattr.user.colour"], "\x01\x00\x02")
	_, leaked := file.PAXRecords["SCHILY.xattr.trusted.overlay.redirect"]
	assert.Assert(t, !leaked)
	assert.Equal(t, got[1].Devminor, int64(300))
	assert.Equal(t, got[3].Typeflag, byte(tar.TypeLink))
	assert.Equal(t, got[3].Linkname, "d/file")
	assert.Equal(t, got[6].Linkname, "file")
}

// TestWriteChangesVanished packs a tree that changes under it.
func TestWriteChangesVanished(t *testing.T) {
	tartest.NeedRoot(t)
	dir := t.TempDir()
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o644))
	changes := tartest.Added("/f", "/gone", "/no/where", "/f/below")
	err := Changes(t.Context(), io.Discard, dir, tartest.Changes(changes...), Options{})
	assert.ErrorIs(t, err, unix.ENOENT)
	var out bytes.Buffer
	assert.NilError(t, Changes(t.Context(), &out, dir, tartest.Changes(changes...), Options{Vanished: true}))
	assert.Equal(t, len(tartest.Read(t, out.Bytes())), 1)

	// procfs says size 0 for files that have content: cut off at what the header says.
	out.Reset()
	assert.NilError(t, Changes(t.Context(), &out, "/proc/self", tartest.Changes(tartest.Added("/status")...), Options{}))
	assert.Equal(t, tartest.Read(t, out.Bytes())[0].Body, "")
	// sysfs says 4096 for files that have less.
	for _, vanished := range []bool{false, true} {
		out.Reset()
		err := Changes(t.Context(), &out, "/sys/kernel", tartest.Changes(tartest.Added("/fscaps")...), Options{Vanished: vanished})
		if !vanished {
			assert.ErrorIs(t, err, errdefs.ErrUnavailable)
			continue
		}
		assert.NilError(t, err)
		assert.Equal(t, len(tartest.Read(t, out.Bytes())[0].Body), 4096)
	}
}

// TestWriteChangesErrors passes on what the list and the writer say.
func TestWriteChangesErrors(t *testing.T) {
	broken := errors.New("no list")
	err := Changes(t.Context(), io.Discard, t.TempDir(), func(yield func(backend.Change, error) bool) {
		yield(backend.Change{}, broken)
	}, Options{})
	assert.ErrorIs(t, err, broken)
	r, w := io.Pipe()
	assert.NilError(t, r.CloseWithError(broken))
	assert.ErrorIs(t, Changes(t.Context(), w, t.TempDir(), tartest.Changes(), Options{}), broken)
}
