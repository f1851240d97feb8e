package dirsink

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"

	"strata/backend"

	"strata/backend/internal/layertar/tartest"
	"strata/backend/internal/layertar/unpack"
)

func TestApplySimple(t *testing.T) {
	tartest.NeedRoot(t)
	dir := t.TempDir()
	data := tartest.Make(t,
		tartest.Member{Header: tar.Header{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o751}},
		tartest.Member{Header: tar.Header{Name: "etc/passwd", Uid: 7, Gid: 8, Mode: 0o4755}, Body: "root"},
		tartest.Member{Header: tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "etc"}},
		tartest.Member{Header: tar.Header{Name: "link/late"}, Body: "via link"},
		tartest.Member{Header: tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "etc/passwd", Uid: 7, Gid: 8, Mode: 0o4755}},
	)
	r, err := Apply(context.Background(), dir, bytes.NewReader(data), Options{Whiteouts: backend.WhiteoutsNone}, unpack.Options{})
	assert.NilError(t, err)
	assert.Equal(t, r.Size, int64(12))
	assert.Equal(t, r.Bytes, int64(len(data)))
	assert.Equal(t, r.Entries, 5)
	got, err := os.ReadFile(filepath.Join(dir, "etc/late"))
	assert.NilError(t, err)
	assert.Equal(t, string(got), "via link")
	st, err := os.Stat(filepath.Join(dir, "hard"))
	assert.NilError(t, err)
	assert.Equal(t, st.Mode(), os.ModeSetuid|0o755)
	st, err = os.Stat(filepath.Join(dir, "etc"))
	assert.NilError(t, err)
	assert.Equal(t, st.ModTime().Unix(), int64(1000000000))
}
