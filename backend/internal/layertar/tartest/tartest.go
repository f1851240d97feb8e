// Package tartest makes the tars that the tests of layer tars share. It knows the formats by
// itself, so that a mistake in the codec cannot hide in the tests.
package tartest

import (
	"archive/tar"
	"bytes"
	"embed"
	"errors"
	"io"
	"iter"
	"os"
	"slices"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"strata/backend"
)

const (
	// BlockSize is the unit of a tar.
	BlockSize = 512
	// XattrPrefix marks PAX records that hold extended attributes.
	XattrPrefix = "SCHILY.xattr."
)

// Member is one entry with its content.
type Member struct {
	tar.Header
	Body string
}

// Make makes a tar. Kind, mode and time have defaults; the size is that of the content.
func Make(t testing.TB, members ...Member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		h := m.Header
		h.Size = int64(len(m.Body))
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(1000000000, 0)
		}
		assert.NilError(t, w.WriteHeader(&h))
		_, err := w.Write([]byte(m.Body))
		assert.NilError(t, err)
	}
	assert.NilError(t, w.Close())
	return b.Bytes()
}

// Dir is a directory.
func Dir(name string) Member {
	return Member{Header: tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}}
}

// File is a regular file.
func File(name, body string) Member { return Member{Header: tar.Header{Name: name}, Body: body} }

// Link is a hard link.
func Link(name, target string) Member {
	return Member{Header: tar.Header{Name: name, Linkname: target, Typeflag: tar.TypeLink}}
}

// Symlink is a symbolic link.
func Symlink(name, target string) Member {
	return Member{Header: tar.Header{Name: name, Linkname: target, Typeflag: tar.TypeSymlink, Mode: 0o777}}
}

// Xattr is m with one extended attribute.
func Xattr(m Member, name, value string) Member {
	m.PAXRecords = map[string]string{XattrPrefix + name: value}
	return m
}

// Watched calls Look each time Every bytes were read.
type Watched struct {
	io.Reader
	Every int
	Look  func()

	left int
}

// Read reads.
func (w *Watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if w.left -= n; w.left < 0 {
		w.left = w.Every
		w.Look()
	}
	return n, err
}

//go:embed testdata/*.tar
var stored embed.FS

// Seeds are tars of all the formats that the codec reads, made here and by GNU tar.
func Seeds(t testing.TB) [][]byte {
	t.Helper()
	long := string(bytes.Repeat([]byte{'n'}, 200))
	list := [][]byte{
		Make(t, Dir("d"), File("d/f", "body"), Link("h", "d/f"), Symlink("l", "d"), File("l/../.wh.x", "")),
		Make(t, Xattr(File(long, "x"), "user.k", "v"), File("d/.wh..wh..opq", "")),
		Make(t, File("a", "1"), File("a", "2"), Dir("a"), File(".wh.a", "")),
		Make(t, Dir("./"), File("../../x", "x"), Link("y", "../x"), File("", "none"), Dir("/")),
		Make(t, Xattr(File("f", "x"), "com.apple.x", "v"),
			Member{Header: tar.Header{Name: "f", Typeflag: tar.TypeChar, Uid: -1, Format: tar.FormatGNU}}),
		Sparse("0.0", 3), Sparse("0.1", 3), Sparse("1.0", 3), Sparse("old", 30),
	}
	entries, err := stored.ReadDir("testdata")
	assert.NilError(t, err)
	files := make([][]byte, len(entries))
	for i, e := range entries {
		files[i], err = stored.ReadFile("testdata/" + e.Name())
		assert.NilError(t, err)
	}
	return slices.Concat(list, files)
}

// Read reads a tar with the standard library.
func Read(t testing.TB, data []byte) []Member {
	t.Helper()
	var list []Member
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return list
		}
		assert.NilError(t, err)
		body, err := io.ReadAll(r)
		assert.NilError(t, err)
		list = append(list, Member{*h, string(body)})
	}
}

// Changes yields changes.
func Changes(list ...backend.Change) iter.Seq2[backend.Change, error] {
	return func(yield func(backend.Change, error) bool) {
		for _, c := range list {
			if !yield(c, nil) {
				return
			}
		}
	}
}

// Added are changes that add these paths.
func Added(paths ...string) []backend.Change {
	list := make([]backend.Change, 0, len(paths))
	for _, p := range paths {
		list = append(list, backend.Change{Path: p, Kind: backend.Added})
	}
	return list
}

// NeedRoot skips the test unless root runs it.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("owners, devices and trusted attributes need root")
	}
}

// Mkdir makes a directory.
func Mkdir(t testing.TB, dir string) {
	t.Helper()
	assert.NilError(t, os.Mkdir(dir, 0o755))
}
