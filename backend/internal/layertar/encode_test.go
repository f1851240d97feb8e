package layertar

import (
	"archive/tar"
	"bytes"
	"testing"

	"gotest.tools/v3/assert"
	"pgregory.net/rapid"
)

// TestEncode reads random headers back with archive/tar.
func TestEncode(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[a-z/é]{0,300}[a-z]`).Draw(t, "name")
		e := &entry{
			name: name, kind: kindSymlink, mode: uint32(rapid.IntRange(0, modeBits).Draw(t, "mode")),
			link:  rapid.StringMatching(`[a-zü]{1,150}`).Draw(t, "link"),
			uid:   rapid.Int64Range(0, 1<<32-2).Draw(t, "uid"),
			gid:   rapid.Int64Range(0, 1<<32-2).Draw(t, "gid"),
			mtime: stamp{rapid.Int64Range(-1<<40, 1<<40).Draw(t, "sec"), rapid.Int64Range(0, 999999999).Draw(t, "nsec")},
		}
		if rapid.Bool().Draw(t, "attribute") {
			e.xattrs = []xattr{{"user.k", string(rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "value"))}}
		}
		var c encoder
		h, err := tar.NewReader(bytes.NewReader(append(c.encode(e), make([]byte, 2*blockSize)...))).Next()
		if err != nil {
			t.Fatalf("archive/tar does not read it: %v", err)
		}
		if h.Name != e.name || h.Linkname != e.link || h.Mode != int64(e.mode) || int64(h.Uid) != e.uid || int64(h.Gid) != e.gid {
			t.Fatalf("got %+v, want %+v", h, e)
		}
		if h.ModTime.Unix() != e.mtime.sec || int64(h.ModTime.Nanosecond()) != e.mtime.nsec {
			t.Fatalf("time %d.%09d, want %v", h.ModTime.Unix(), h.ModTime.Nanosecond(), e.mtime)
		}
		for _, x := range e.xattrs {
			if got := h.PAXRecords[xattrPrefix+x.name]; got != x.value {
				t.Fatalf("attribute %q, want %q", got, x.value)
			}
		}
	})
}

// TestNumber reads numeric fields as archive/tar does, errors included.
func TestNumber(t *testing.T) {
	tests := []struct {
		in   string
		want int64
		ok   bool
	}{
		{"0000644\x00", 0o644, true},
		{" 644 \x00\x00\x00", 0o644, true},
		{"\x00\x00\x00\x00", 0, true},
		{"77777777", 1<<24 - 1, true},
		{"12a\x00", 0, false},
		{"8\x00", 0, false},
		{"-1\x00", 0, false},
		{"\x80\x00\x00\x01\x00", 1 << 8, true},
		{"\xff\xff\xff\xff\xff", -1, true},
		{"\xff\xff\xff\xfe\x00", -512, true},
		{"\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff", 1<<63 - 1, true},
		{"\x80\x00\x00\x00\x80\x00\x00\x00\x00\x00\x00\x00", 0, false},
		{"\x80\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00", 0, false},
	}
	for _, test := range tests {
		got, err := number([]byte(test.in))
		assert.Equal(t, err == nil, test.ok, "%q: %v", test.in, err)
		assert.Equal(t, got, test.want, "%q", test.in)
	}
}
