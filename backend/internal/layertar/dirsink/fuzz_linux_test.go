package dirsink

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/internal/layertar/tarlog"
	"strata/backend/internal/layertar/tartest"
	"strata/backend/internal/layertar/unpack"
)

// FuzzApply unpacks hostile tars into a layer inside a sentinel tree: nothing outside may change, and
// a tar that is accepted must be given back byte for byte.
func FuzzApply(f *testing.F) {
	tartest.NeedRoot(f)
	for _, data := range tartest.Seeds(f) {
		f.Add(data, uint8(0))
		f.Add(data, uint8(1))
	}
	f.Fuzz(func(t *testing.T, data []byte, dialect uint8) {
		tartest.Mend(data)
		s := newSentinel(t)
		log := filepath.Join(t.TempDir(), "log")
		w, err := tarlog.Create(log)
		assert.NilError(t, err)
		_, err = Apply(t.Context(), s.layer, bytes.NewReader(data), Options{Whiteouts: backend.Whiteouts(dialect % 4)}, unpack.Options{Log: w})
		s.check(t)
		if err != nil {
			assert.NilError(t, w.Abort())
			return
		}
		assert.NilError(t, w.Close())
		var out bytes.Buffer
		assert.NilError(t, replayFile(log, s.layer, &out))
		assert.Assert(t, bytes.Equal(out.Bytes(), data), "%d bytes, want %d", out.Len(), len(data))
	})
}

// FuzzLog opens damaged logs and replays them: an error or the tar, nothing else.
func FuzzLog(f *testing.F) {
	tartest.NeedRoot(f)
	dir := f.TempDir()
	layer := filepath.Join(dir, "layer")
	tartest.Mkdir(f, layer)
	data := tartest.Make(f, tartest.Dir("d"), tartest.File("d/f", strings.Repeat("x", 600)), tartest.File("d/f", "again"), tartest.File("g", "g"))
	w, err := tarlog.Create(filepath.Join(dir, "log"))
	assert.NilError(f, err)
	_, err = Apply(f.Context(), layer, bytes.NewReader(data), Options{}, unpack.Options{Log: w})
	assert.NilError(f, err)
	assert.NilError(f, w.Close())
	log, err := os.ReadFile(filepath.Join(dir, "log"))
	assert.NilError(f, err)
	f.Add(log)
	f.Add(log[:len(log)-1])
	f.Add(log[len(log)-72:])
	f.Fuzz(func(t *testing.T, log []byte) {
		path := filepath.Join(t.TempDir(), "log")
		assert.NilError(t, os.WriteFile(path, log, 0o600))
		var out bytes.Buffer
		if err := replayFile(path, layer, &out); err == nil {
			assert.Assert(t, bytes.Equal(out.Bytes(), data))
		}
	})
}
