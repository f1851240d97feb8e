package tarcodec

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"testing"

	"gotest.tools/v3/assert"

	"strata/backend/internal/layertar/tartest"
)

// FuzzReader compares our view of a tar with archive/tar's. Where we accept it and archive/tar does
// too, entries and contents are the same; framing and data together are the stream.
func FuzzReader(f *testing.F) {
	for _, data := range tartest.Seeds(f) {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		tartest.Mend(data)
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

type readEntry struct {
	Entry
	data []byte // stored
}

// readAll reads a tar with our reader, and puts the stream together again.
func readAll(t *testing.T, data []byte) (list []readEntry, stream []byte, err error) {
	t.Helper()
	r := NewReader(t.Context(), bytes.NewReader(data), func(p []byte) { stream = append(stream, p...) })
	defer r.Close()
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) && e == nil {
			return list, stream, r.Drain()
		}
		if err != nil {
			return nil, nil, err
		}
		item := readEntry{Entry: *e}
		for {
			p, err := r.Take(1 << 20)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, nil, err
			}
			item.data = append(item.data, p.Data...)
			stream = append(stream, p.Data...)
			p.Release()
		}
		list = append(list, item)
	}
}

func sameEntry(t *testing.T, e *readEntry, h *tar.Header, body []byte) {
	t.Helper()
	assert.Equal(t, e.Name, h.Name)
	assert.Equal(t, e.Link, h.Linkname)
	assert.Equal(t, int64(e.Mode), h.Mode&ModeBits)
	assert.Equal(t, e.UID, int64(h.Uid))
	assert.Equal(t, e.GID, int64(h.Gid))
	assert.Equal(t, e.Mtime.Sec, h.ModTime.Unix())
	assert.Equal(t, e.Mtime.Nsec, int64(h.ModTime.Nanosecond()))
	for _, x := range e.Xattrs {
		_, ok := h.PAXRecords[xattrPrefix+x.Name]
		assert.Assert(t, ok, "%q", x.Name)
	}
	if e.Kind != KindFile {
		return
	}
	assert.Equal(t, e.Size, int64(len(body)))
	whole := make([]byte, e.Size)
	if !e.Sparse {
		copy(whole, e.data)
	}
	rest := e.data
	for _, s := range e.Segments {
		copy(whole[s.Offset:], rest[:s.Length])
		rest = rest[s.Length:]
	}
	assert.Assert(t, bytes.Equal(whole, body), "content of %q", e.Name)
}
