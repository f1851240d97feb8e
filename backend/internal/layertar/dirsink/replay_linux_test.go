package dirsink

import (
	"archive/tar"
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/internal/layertar/tarlog"
	"strata/backend/internal/layertar/tartest"
	"strata/backend/internal/layertar/unpack"
)

// roundTrip applies a tar with a log and returns what the log gives back.
func roundTrip(t testing.TB, data []byte, w backend.Whiteouts) []byte {
	t.Helper()
	tmp := t.TempDir()
	dir := filepath.Join(tmp, "layer")
	tartest.Mkdir(t, dir)
	l, err := tarlog.Create(filepath.Join(tmp, "log"))
	assert.NilError(t, err)
	_, err = Apply(context.Background(), dir, bytes.NewReader(data), Options{Whiteouts: w}, unpack.Options{Log: l})
	if err != nil {
		assert.NilError(t, l.Abort())
	}
	assert.NilError(t, err)
	assert.NilError(t, l.Close())
	var out bytes.Buffer
	assert.NilError(t, replayFile(filepath.Join(tmp, "log"), dir, &out))
	return out.Bytes()
}

func TestReplayExact(t *testing.T) {
	tartest.NeedRoot(t)
	big := strings.Repeat("0123456789abcdef", 100000)
	data := tartest.Make(t,
		tartest.Member{Header: tar.Header{Name: "d/", Typeflag: tar.TypeDir}},
		tartest.Member{Header: tar.Header{Name: "d/a"}, Body: "first"},
		tartest.Member{Header: tar.Header{Name: "d/big"}, Body: big},
		tartest.Member{Header: tar.Header{Name: "d/a"}, Body: "second, longer"},
		tartest.Member{Header: tar.Header{Name: "e"}, Body: "e"},
		tartest.Member{Header: tar.Header{Name: "d", Mode: 0o600}, Body: "now a file"},
		tartest.Member{Header: tar.Header{Name: ".wh.e"}},
		tartest.Member{Header: tar.Header{Name: strings.Repeat("long/", 60) + "name"}, Body: "x"},
	)
	data = append(data, []byte("trailing garbage")...)
	for _, w := range []backend.Whiteouts{backend.WhiteoutsNone, backend.WhiteoutsOverlay, backend.WhiteoutsAUFS} {
		got := roundTrip(t, data, w)
		assert.Assert(t, bytes.Equal(got, data), "%d bytes, want %d", len(got), len(data))
	}
}
