package layertar

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"gotest.tools/v3/assert"
)

// sparseTar is a tar with a sparse file, "f", of so many segments of one byte each, every other byte a hole.
func sparseTar(kind string, segments int) []byte {
	var b bytes.Buffer
	data := bytes.Repeat([]byte{'x'}, segments)
	size := int64(2 * segments)
	switch kind {
	case "old":
		var h rawHeader
		copy(h.bytes(fieldMagic), "ustar  \x00")
		list := pairsOf(segments)
		pad := 21 - (segments-4)%21
		for range pad % 21 {
			list = append(list, make([]byte, 24)...)
		}
		copy(h.bytes(fieldGNUSparse), list[:96])
		h[gnuExtendedOffset] = 1
		putOctal(h.bytes(fieldGNUReal), size)
		seal(&h, "f", 'S', int64(len(data)))
		b.Write(h[:])
		for list = list[96:]; len(list) > 0; list = list[504:] {
			b.Write(list[:504])
			more := make([]byte, 8)
			if len(list) > 504 {
				more[0] = 1
			}
			b.Write(more)
		}
	case "1.0":
		var text bytes.Buffer
		fmt.Fprintf(&text, "%d\n", segments)
		for i := range segments {
			fmt.Fprintf(&text, "%d\n1\n", 2*i)
		}
		text.Write(make([]byte, padding(int64(text.Len()))))
		paxHeader(&b, fmt.Sprintf("GNU.sparse.major=1\nGNU.sparse.minor=0\nGNU.sparse.name=f\nGNU.sparse.realsize=%d", size))
		data = append(text.Bytes(), data...)
		plainHeader(&b, int64(len(data)))
	case "0.1":
		var text strings.Builder
		for i := range segments {
			fmt.Fprintf(&text, ",%d,1", 2*i)
		}
		paxHeader(&b, fmt.Sprintf("GNU.sparse.size=%d\nGNU.sparse.numblocks=%d\nGNU.sparse.map=%s", size, segments, text.String()[1:]))
		plainHeader(&b, int64(len(data)))
	case "0.0":
		var text strings.Builder
		fmt.Fprintf(&text, "GNU.sparse.size=%d\nGNU.sparse.numblocks=%d", size, segments)
		for i := range segments {
			fmt.Fprintf(&text, "\nGNU.sparse.offset=%d\nGNU.sparse.numbytes=1", 2*i)
		}
		paxHeader(&b, text.String())
		plainHeader(&b, int64(len(data)))
	}
	b.Write(data)
	b.Write(make([]byte, padding(int64(len(data)))+2*blockSize))
	return b.Bytes()
}

// pairsOf is the map in the form of the old GNU format.
func pairsOf(segments int) []byte {
	list := make([]byte, 0, 24*segments)
	for i := range segments {
		list = fmt.Appendf(list, "%011o\x00%011o\x00", 2*i, 1)
	}
	return list
}

func seal(h *rawHeader, name string, kind byte, size int64) {
	copy(h.bytes(fieldName), name)
	h[typeOffset] = kind
	putOctal(h.bytes(fieldMode), 0o644)
	putOctal(h.bytes(fieldSize), size)
	sum, _ := h.sums()
	putOctal(h.bytes(field{fieldChecksum.start, fieldChecksum.end - 1}), sum)
}

func plainHeader(b *bytes.Buffer, size int64) {
	var h rawHeader
	copy(h.bytes(fieldMagic), "ustar\x0000")
	seal(&h, "f", kindFile, size)
	b.Write(h[:])
}

// paxHeader writes records, given one a line.
func paxHeader(b *bytes.Buffer, lines string) {
	var data []byte
	for line := range strings.SplitSeq(lines, "\n") {
		key, value, _ := strings.Cut(line, "=")
		data = appendRecord(data, paxRecord{key, value})
	}
	var h rawHeader
	copy(h.bytes(fieldMagic), "ustar\x0000")
	seal(&h, "pax", 'x', int64(len(data)))
	b.Write(h[:])
	b.Write(data)
	b.Write(make([]byte, padding(int64(len(data)))))
}

var sparseKinds = []string{"old", "0.0", "0.1", "1.0"}

// TestManySegments unpacks sparse files with more segments than a record of the log takes, gives their tars back, and looks at the
// memory meanwhile.
func TestManySegments(t *testing.T) {
	needRoot(t)
	const segments = 200_000
	want := sha256.Sum256(bytes.Repeat([]byte("x\x00"), segments))
	for _, kind := range sparseKinds {
		data := sparseTar(kind, segments)
		work := t.TempDir()
		dir, path := filepath.Join(work, "layer"), filepath.Join(work, "log")
		mkdir(t, dir)
		w, err := CreateLog(path)
		assert.NilError(t, err)
		_, err = Apply(t.Context(), dir, bytes.NewReader(data), Options{Log: w})
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

// TestSegmentLimitCost reads maps of as many segments as are allowed, in bounded memory, and refuses one more.
func TestSegmentLimitCost(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(10)) // what is in use, not what waits to be collected
	for _, kind := range sparseKinds {
		e, peak, err := readFirst(t, sparseTar(kind, maxSegments))
		assert.NilError(t, err, kind)
		assert.Equal(t, len(e.segments), maxSegments, kind)
		assert.Equal(t, e.segments[maxSegments-1], segment{2 * (maxSegments - 1), 1}, kind)
		assert.Assert(t, peak < 64<<20, "%s: %d bytes", kind, peak)
		_, peak, err = readFirst(t, sparseTar(kind, maxSegments+1))
		assert.ErrorIs(t, err, errdefs.ErrInvalidArgument, kind)
		assert.Assert(t, peak < 64<<20, "%s: %d bytes", kind, peak)
	}
}

// readFirst reads the first entry of a tar and returns how far the heap grew meanwhile.
func readFirst(t *testing.T, data []byte) (e *entry, peak uint64, err error) {
	t.Helper()
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	src := newSource(t.Context(), &watched{Reader: bytes.NewReader(data), every: 1 << 20, look: func() {
		runtime.ReadMemStats(&now)
		peak = max(peak, now.HeapAlloc-min(before.HeapAlloc, now.HeapAlloc))
	}})
	defer src.close()
	e, err = (&reader{src: src}).next()
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
		assert.DeepEqual(t, x.xattrs, []xattr{{"user.k", "v\nw"}}, cmp.AllowUnexported(xattr{}))
		list, err := x.sparse.segments()
		assert.NilError(t, err)
		assert.Assert(t, len(list) == 2 && list[0] == segment{1, 2} && list[1] == segment{30, 4}, "%v", list)
	}
	for _, bad := range []string{
		"x", "5", "5 a=", "0 a=b\n", "2 \n", "6 a=bc\n", "5 =b\n", "999999999 a=b\n", "-5 a=b\n", "7 a\x00=b\n", "5 ab\n",
		"22 GNU.sparse.map=1,2", "22 GNU.sparse.map=1,2x", "24 GNU.sparse.map=1,2,3x\n", "24 GNU.sparse.map=1\n2,3\n", "25 GNU.sparse.map=1,,2,3\n",
		record("GNU.sparse.map", strings.Repeat("1", maxDigits+1)), record("GNU.sparse.numbytes", "1"),
		record("comment", strings.Repeat("x", maxSpecial)), strings.Repeat(record("comment", strings.Repeat("x", maxSpecial/8)), 8),
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
