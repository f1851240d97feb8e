package dirsink

import (
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"

	"strata/backend/internal/layertar/tarlog"
	"strata/backend/internal/layertar/tartest"
	"strata/backend/internal/layertar/unpack"
)

// TestManySegments unpacks sparse files with more segments than a record of the log takes, gives their tars back, and looks at the
// memory meanwhile.
func TestManySegments(t *testing.T) {
	tartest.NeedRoot(t)
	const segments = 200_000
	want := sha256.Sum256(bytes.Repeat([]byte("x\x00"), segments))
	for _, kind := range tartest.SparseKinds() {
		data := tartest.Sparse(kind, segments)
		work := t.TempDir()
		dir, path := filepath.Join(work, "layer"), filepath.Join(work, "log")
		tartest.Mkdir(t, dir)
		w, err := tarlog.Create(path)
		assert.NilError(t, err)
		_, err = Apply(t.Context(), dir, bytes.NewReader(data), Options{}, unpack.Options{Log: w})
		assert.NilError(t, err, kind)
		assert.NilError(t, w.Close())
		body, err := os.ReadFile(filepath.Join(dir, "f"))
		assert.NilError(t, err)
		assert.Equal(t, sha256.Sum256(body), want, kind)
		var out bytes.Buffer
		assert.NilError(t, replayFile(path, dir, &out))
		assert.Assert(t, bytes.Equal(out.Bytes(), data), kind)
	}
}
