package unpack_test

import (
	"bytes"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"

	"strata/backend/backendtest"
	"strata/backend/internal/layertar/tarlog"
	"strata/backend/internal/layertar/tartest"
	"strata/backend/internal/layertar/unpack"
)

// FuzzApply unpacks tars into memory, on any system and without privileges: one that is accepted comes
// back byte for byte. Coverage varies with the goroutines, so -fuzzminimizetime 1x spares much time.
func FuzzApply(f *testing.F) {
	for _, data := range tartest.Seeds(f) {
		f.Add(data, false)
		f.Add(data, true)
	}
	f.Fuzz(func(t *testing.T, data []byte, literal bool) {
		tartest.Mend(data)
		path := filepath.Join(t.TempDir(), "log")
		w, err := tarlog.Create(path)
		assert.NilError(t, err)
		tree := backendtest.NewMemoryTree()
		r, err := unpack.Apply(t.Context(), tree.Sink(), bytes.NewReader(data), unpack.Options{Literal: literal, Log: w})
		if err != nil {
			assert.NilError(t, w.Abort())
			return
		}
		assert.Equal(t, r.Bytes, int64(len(data)))
		assert.NilError(t, w.Close())
		log, err := tarlog.Open(path)
		assert.NilError(t, err)
		defer log.Close()
		assert.Equal(t, log.Digest(), r.Digest)
		var out bytes.Buffer
		assert.NilError(t, log.Replay(t.Context(), &out, tree))
		assert.Assert(t, bytes.Equal(out.Bytes(), data), "%d bytes, want %d", out.Len(), len(data))
	})
}
