package tartest

import (
	"archive/tar"
	"bytes"
	"path"
	"strings"
	"time"

	"pgregory.net/rapid"
)

// Draw makes a tar of a few entries whose names often meet. With marks, it has whiteouts.
func Draw(t *rapid.T, label string, marks bool) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	name := rapid.Custom(func(t *rapid.T) string {
		parts := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "dd"}), 1, 3).Draw(t, "parts")
		front := rapid.SampledFrom([]string{"", "", "", "", "", "./", "/", "../", "./../", "/../", "c/../../"}).Draw(t, "front")
		return front + strings.Join(parts, "/")
	})
	for range rapid.IntRange(1, 12).Draw(t, label+" entries") {
		h, body := drawEntry(t, name, marks)
		// Docker's marks also act on what the same tar has put there, so they come first.
		_, base := path.Split(h.Name)
		marks = marks && strings.HasPrefix(base, ".wh.")
		// One time for all: Docker sets a directory's times at the end even if a file has replaced it.
		h.ModTime = time.Unix(1000000, 123000)
		if err := w.WriteHeader(h); err != nil {
			t.Fatalf("write header: %v", err)
		}
		if _, err := w.Write(body); err != nil {
			t.Fatalf("write body: %v", err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatalf("close tar: %v", err)
	}
	if rapid.Bool().Draw(t, "garbage") {
		b.WriteString("after the end")
	}
	return b.Bytes()
}

func drawEntry(t *rapid.T, name *rapid.Generator[string], marks bool) (*tar.Header, []byte) {
	kinds := []string{"file", "file", "file", "dir", "dir", "symlink", "hard", "device"}
	if marks {
		kinds = append(kinds, "whiteout", "whiteout", "whiteout", "whiteout", "opaque", "opaque", "opaque")
	}
	h := &tar.Header{
		Format: tar.FormatPAX,
		Name:   name.Draw(t, "name"),
		Mode:   int64(rapid.SampledFrom([]int{0o644, 0o600, 0o4755, 0o2711, 0o777}).Draw(t, "mode")),
		Uid:    rapid.IntRange(0, 3).Draw(t, "uid"),
		Gid:    rapid.IntRange(0, 3).Draw(t, "gid"),
	}
	switch rapid.SampledFrom(kinds).Draw(t, "kind") {
	case "file":
		body := bytes.Repeat([]byte{byte('a' + h.Uid)}, rapid.SampledFrom([]int{0, 1, 600, 200000}).Draw(t, "size"))
		h.Typeflag, h.Size = tar.TypeReg, int64(len(body))
		if rapid.Bool().Draw(t, "xattr") {
			h.PAXRecords = map[string]string{"SCHILY.xattr.user.k": "v\x00w"}
		}
		return h, body
	case "dir":
		h.Typeflag = tar.TypeDir
		h.Name += "/"
		h.Mode &^= 0o2000 // directories that Docker makes in it without being told to would inherit it
	case "symlink":
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, rapid.SampledFrom([]string{"a", "b", "nowhere"}).Draw(t, "target"), 0o777
	case "hard":
		h.Typeflag, h.Linkname = tar.TypeLink, name.Draw(t, "target")
	case "device":
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, 1, 3
	case "whiteout":
		h.Typeflag = tar.TypeReg
		dir, base := path.Split(h.Name)
		h.Name = dir + ".wh." + base
	case "opaque":
		h.Typeflag = tar.TypeReg
		h.Name += "/" + ".wh..wh..opq"
	}
	return h, nil
}
