package tarcodec

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
		e := &Entry{
			Name: name, Kind: KindSymlink, Mode: uint32(rapid.IntRange(0, ModeBits).Draw(t, "mode")),
			Link:  rapid.StringMatching(`[a-zü]{1,150}`).Draw(t, "link"),
			UID:   rapid.Int64Range(0, 1<<32-2).Draw(t, "uid"),
			GID:   rapid.Int64Range(0, 1<<32-2).Draw(t, "gid"),
			Mtime: Stamp{rapid.Int64Range(-1<<40, 1<<40).Draw(t, "sec"), rapid.Int64Range(0, 999999999).Draw(t, "nsec")},
		}
		if rapid.Bool().Draw(t, "attribute") {
			e.Xattrs = []Xattr{{Name: "user.k", Value: string(rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "value"))}}
		}
		var c Encoder
		h, err := tar.NewReader(bytes.NewReader(append(c.Encode(e), make([]byte, 2*BlockSize)...))).Next()
		if err != nil {
			t.Fatalf("archive/tar does not read it: %v", err)
		}
		if h.Name != e.Name || h.Linkname != e.Link || h.Mode != int64(e.Mode) || int64(h.Uid) != e.UID || int64(h.Gid) != e.GID {
			t.Fatalf("got %+v, want %+v", h, e)
		}
		if h.ModTime.Unix() != e.Mtime.Sec || int64(h.ModTime.Nanosecond()) != e.Mtime.Nsec {
			t.Fatalf("time %d.%09d, want %v", h.ModTime.Unix(), h.ModTime.Nanosecond(), e.Mtime)
		}
		for _, x := range e.Xattrs {
			if got := h.PAXRecords[xattrPrefix+x.Name]; got != x.Value {
				t.Fatalf("attribute %q, want %q", got, x.Value)
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
