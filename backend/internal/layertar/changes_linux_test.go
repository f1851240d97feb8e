package layertar

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend"
)

func listChanges(list ...backend.Change) iter.Seq2[backend.Change, error] {
	return func(yield func(backend.Change, error) bool) {
		for _, c := range list {
			if !yield(c, nil) {
				return
			}
		}
	}
}

func added(paths ...string) []backend.Change {
	var list []backend.Change
	for _, p := range paths {
		list = append(list, backend.Change{Path: p, Kind: backend.Added})
	}
	return list
}

// readTar reads a tar with the standard library.
func readTar(t testing.TB, data []byte) []member {
	t.Helper()
	var list []member
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return list
		}
		assert.NilError(t, err)
		body, err := io.ReadAll(r)
		assert.NilError(t, err)
		list = append(list, member{*h, string(body)})
	}
}

func TestWriteChanges(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	long := strings.Repeat("n", 150)
	at := func(name string) string { return filepath.Join(dir, name) }
	mkdir(t, at("d"))
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

	changes := added("/d", "/d/dev", "/d/file", "/d/hard", "/d/"+long, "/d/pipe", "/d/soft")
	changes = append(changes, backend.Change{Path: "/d/was", Kind: backend.Deleted}, backend.Change{Path: "/x", Kind: backend.Deleted})
	var out, again bytes.Buffer
	assert.NilError(t, WriteChanges(context.Background(), &out, dir, listChanges(changes...), WriteOptions{}))
	assert.NilError(t, WriteChanges(context.Background(), &again, dir, listChanges(changes...), WriteOptions{}))
	assert.Assert(t, bytes.Equal(out.Bytes(), again.Bytes()))

	got := readTar(t, out.Bytes())
	var names []string
	for _, m := range got {
		names = append(names, m.Name)
	}
	assert.DeepEqual(t, names, []string{"d/", "d/dev", "d/file", "d/hard", "d/" + long, "d/pipe", "d/soft", "d/.wh.was", ".wh.x"})
	file := got[2]
	assert.Equal(t, file.body, "hello")
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
