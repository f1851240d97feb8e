package layertar

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"strata/backend"
)

// FuzzApply unpacks hostile tars into a layer inside a sentinel tree: nothing outside may change, and
// a tar that is accepted must be given back byte for byte.
func FuzzApply(f *testing.F) {
	needRoot(f)
	for _, data := range seeds(f) {
		f.Add(data, uint8(0))
		f.Add(data, uint8(1))
	}
	f.Fuzz(func(t *testing.T, data []byte, dialect uint8) {
		mend(data)
		s := newSentinel(t)
		log := filepath.Join(t.TempDir(), "log")
		w, err := CreateLog(log)
		assert.NilError(t, err)
		_, err = Apply(t.Context(), s.layer, bytes.NewReader(data), Options{Whiteouts: backend.Whiteouts(dialect % 4), Log: w})
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

// FuzzReader compares our view of a tar with archive/tar's. Where we accept it and archive/tar does
// too, entries and contents are the same; framing and data together are the stream.
func FuzzReader(f *testing.F) {
	for _, data := range seeds(f) {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		mend(data)
		ours, stream, err := readAll(t, data)
		if err != nil {
			return
		}
		assert.Assert(t, bytes.Equal(stream, data), "framing and data are %d bytes, want %d", len(stream), len(data))
		theirs := tar.NewReader(bytes.NewReader(data))
		for i := 0; ; i++ {
			h, err := theirs.Next()
			if errors.Is(err, io.EOF) {
				assert.Equal(t, i, len(ours))
				return
			}
			if err != nil {
				return
			}
			if h.Typeflag == tar.TypeXGlobalHeader {
				i--
				continue
			}
			if h.Size > 1<<24 {
				return // a hole: we have no wish to read it
			}
			assert.Assert(t, i < len(ours), "archive/tar has more: %q", h.Name)
			body, err := io.ReadAll(theirs)
			if err != nil {
				return
			}
			sameEntry(t, &ours[i], h, body)
		}
	})
}

// mend puts right checksums into all blocks that may be headers: otherwise the fuzzer would have to
// find them.
func mend(data []byte) {
	for ; len(data) >= blockSize; data = data[blockSize:] {
		h := (*rawHeader)(data)
		if string(h[257:262]) != "ustar" {
			continue
		}
		sum, _ := h.sums()
		putOctal(h.bytes(field{fieldChecksum.start, fieldChecksum.end - 1}), sum)
	}
}

type readEntry struct {
	entry
	data []byte // stored
}

// readAll reads a tar with our reader, and puts the stream together again.
func readAll(t *testing.T, data []byte) (list []readEntry, stream []byte, err error) {
	t.Helper()
	src := newSource(t.Context(), bytes.NewReader(data))
	defer src.close()
	r := &reader{src: src, raw: func(p []byte) { stream = append(stream, p...) }}
	for {
		e, err := r.next()
		if errors.Is(err, io.EOF) && e == nil {
			return list, stream, r.drain()
		}
		if err != nil {
			return nil, nil, err
		}
		item := readEntry{entry: *e}
		for {
			p, err := r.take(1 << 20)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, nil, err
			}
			item.data = append(item.data, p.data...)
			stream = append(stream, p.data...)
			p.b.release()
		}
		list = append(list, item)
	}
}

func sameEntry(t *testing.T, e *readEntry, h *tar.Header, body []byte) {
	t.Helper()
	assert.Equal(t, e.name, h.Name)
	assert.Equal(t, e.link, h.Linkname)
	assert.Equal(t, int64(e.mode), h.Mode&modeBits)
	assert.Equal(t, e.uid, int64(h.Uid))
	assert.Equal(t, e.gid, int64(h.Gid))
	assert.Equal(t, e.mtime.sec, h.ModTime.Unix())
	assert.Equal(t, e.mtime.nsec, int64(h.ModTime.Nanosecond()))
	for _, x := range e.xattrs {
		_, ok := h.PAXRecords[xattrPrefix+x.name]
		assert.Assert(t, ok, "%q", x.name)
	}
	if e.kind != kindFile {
		return
	}
	assert.Equal(t, e.size, int64(len(body)))
	whole := make([]byte, e.size)
	if !e.sparse {
		copy(whole, e.data)
	}
	rest := e.data
	for _, s := range e.segments {
		copy(whole[s.offset:], rest[:s.length])
		rest = rest[s.length:]
	}
	assert.Assert(t, bytes.Equal(whole, body), "content of %q", e.name)
}

// FuzzLog opens damaged logs and replays them: an error or the tar, nothing else.
func FuzzLog(f *testing.F) {
	needRoot(f)
	dir := f.TempDir()
	layer := filepath.Join(dir, "layer")
	mkdir(f, layer)
	data := makeTar(f, dirEntry("d"), fileEntry("d/f", strings.Repeat("x", 600)), fileEntry("d/f", "again"), fileEntry("g", "g"))
	w, err := CreateLog(filepath.Join(dir, "log"))
	assert.NilError(f, err)
	_, err = Apply(f.Context(), layer, bytes.NewReader(data), Options{Log: w})
	assert.NilError(f, err)
	assert.NilError(f, w.Close())
	log, err := os.ReadFile(filepath.Join(dir, "log"))
	assert.NilError(f, err)
	f.Add(log)
	f.Add(log[:len(log)-1])
	f.Add(log[len(log)-footerLen:])
	f.Fuzz(func(t *testing.T, log []byte) {
		path := filepath.Join(t.TempDir(), "log")
		assert.NilError(t, os.WriteFile(path, log, 0o600))
		var out bytes.Buffer
		if err := replayFile(path, layer, &out); err == nil {
			assert.Assert(t, bytes.Equal(out.Bytes(), data))
		}
		d := decoder{b: log} // the records behind the checksums
		for len(d.b) > 0 {
			if _, err := d.record(); err != nil {
				break
			}
		}
	})
}

// seeds are tars of all the formats that we read: made here, and by GNU tar in testdata/tar.
func seeds(f *testing.F) [][]byte {
	f.Helper()
	list := [][]byte{
		makeTar(f, dirEntry("d"), fileEntry("d/f", "body"), linkEntry("h", "d/f"), symlinkEntry("l", "d"), fileEntry("l/../.wh.x", "")),
		makeTar(f, xattrEntry(fileEntry(strings.Repeat("n", 200), "x"), "user.k", "v"), fileEntry("d/.wh..wh..opq", "")),
		makeTar(f, fileEntry("a", "1"), fileEntry("a", "2"), dirEntry("a"), fileEntry(".wh.a", "")),
		makeTar(f, dirEntry("./"), fileEntry("../../x", "x"), linkEntry("y", "../x"), fileEntry("", "none"), dirEntry("/")),
		makeTar(f, xattrEntry(fileEntry("f", "x"), "com.apple.x", "v"), member{Header: tar.Header{Name: "f", Typeflag: tar.TypeChar, Uid: -1, Format: tar.FormatGNU}}),
		sparseTar("0.0", 3), sparseTar("0.1", 3), sparseTar("1.0", 3), sparseTar("old", 30),
	}
	names, err := filepath.Glob(filepath.Join("testdata", "tar", "*.tar"))
	assert.NilError(f, err)
	for _, name := range names {
		data, err := os.ReadFile(name)
		assert.NilError(f, err)
		list = append(list, data)
	}
	return list
}
