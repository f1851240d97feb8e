package tarcodec

import (
	"bytes"
	"io"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"gotest.tools/v3/assert"

	"strata/backend/internal/layertar/tartest"
)

// TestSegmentLimitCost reads maps of as many segments as are allowed, in bounded memory, and refuses one more.
func TestSegmentLimitCost(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(10)) // what is in use, not what waits to be collected
	for _, kind := range tartest.SparseKinds() {
		e, peak, err := readFirst(t, tartest.Sparse(kind, maxSegments))
		assert.NilError(t, err, kind)
		assert.Equal(t, len(e.Segments), maxSegments, kind)
		assert.Equal(t, e.Segments[maxSegments-1], Segment{2 * (maxSegments - 1), 1}, kind)
		assert.Assert(t, peak < 64<<20, "%s: %d bytes", kind, peak)
		_, peak, err = readFirst(t, tartest.Sparse(kind, maxSegments+1))
		assert.ErrorIs(t, err, errdefs.ErrInvalidArgument, kind)
		assert.Assert(t, peak < 64<<20, "%s: %d bytes", kind, peak)
	}
}

// readFirst reads the first entry of a tar and returns how far the heap grew meanwhile.
func readFirst(t *testing.T, data []byte) (e *Entry, peak uint64, err error) {
	t.Helper()
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	src := newSource(t.Context(), &tartest.Watched{Reader: bytes.NewReader(data), Every: 1 << 20, Look: func() {
		runtime.ReadMemStats(&now)
		peak = max(peak, now.HeapAlloc-min(before.HeapAlloc, now.HeapAlloc))
	}})
	defer src.close()
	e, err = (&Reader{src: src}).Next()
	return e, peak, err
}

// TestPAXPieces reads PAX headers in pieces of every length, and refuses what is wrong in them wherever it is cut.
func TestPAXPieces(t *testing.T) {
	record := func(key, value string) string { return string(appendRecord(nil, paxRecord{key, value})) }
	good := record("path", "p") + record("GNU.sparse.numblocks", "2") + record("GNU.sparse.map", "1,2,30,4") + record("SCHILY.xattr.user.k", "v\nw")
	for piece := 1; piece <= len(good); piece++ {
		var x extension
		assert.NilError(t, feed(&x, good, piece))
		assert.Equal(t, x.path, "p")
		assert.DeepEqual(t, x.xattrs, []Xattr{{Name: "user.k", Value: "v\nw"}})
		list, err := x.sparse.segments()
		assert.NilError(t, err)
		assert.Assert(t, len(list) == 2 && list[0] == Segment{1, 2} && list[1] == Segment{30, 4}, "%v", list)
	}
	for _, bad := range []string{
		"x", "5", "5 a=", "0 a=b\n", "2 \n", "6 a=bc\n", "5 =b\n", "999999999 a=b\n", "-5 a=b\n", "7 a\x00=b\n", "5 ab\n",
		"22 GNU.sparse.map=1,2", "22 GNU.sparse.map=1,2x", "24 GNU.sparse.map=1,2,3x\n", "24 GNU.sparse.map=1\n2,3\n", "25 GNU.sparse.map=1,,2,3\n",
		record("GNU.sparse.map", strings.Repeat("1", maxDigits+1)), record("GNU.sparse.numbytes", "1"),
		record("comment", strings.Repeat("x", MaxSpecial)), strings.Repeat(record("comment", strings.Repeat("x", MaxSpecial/8)), 8),
	} {
		for _, piece := range []int{1, 3, paxPiece} {
			if len(bad) > 100 && piece < paxPiece {
				continue
			}
			var x extension
			assert.ErrorIs(t, feed(&x, bad, piece), errdefs.ErrInvalidArgument, "%.40q", bad)
		}
	}
}

func feed(x *extension, header string, piece int) error {
	p := newPAX(x)
	r := strings.NewReader(header)
	b := make([]byte, piece)
	for {
		n, err := r.Read(b)
		if err == io.EOF {
			return p.end()
		}
		if err := p.add(b[:n]); err != nil {
			return err
		}
	}
}
