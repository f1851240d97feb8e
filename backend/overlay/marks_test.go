package overlay

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"gotest.tools/v3/assert"
)

func TestParseMarks(t *testing.T) {
	for value, want := range map[string]opaqueness{"y": opaque, "x": whiteouts, "": merged, "Y": merged, "yy": merged, "y\x00": merged} {
		assert.Equal(t, parseOpaque([]byte(value)), want, "%q", value)
	}
	for value, fine := range map[string]bool{
		"name": true, "/abs/path": true, "/one": true, "a b\\c": true, "...": true,
		"": false, "/": false, "a/b": false, "/a//b": false, "/a/": false, "/../a": false, "/a/./b": false, "..": false, "a\x00": false,
	} {
		got, err := parseRedirect([]byte(value))
		if fine {
			assert.NilError(t, err)
			assert.Equal(t, got, value)
			continue
		}
		assert.Assert(t, errdefs.IsDataLoss(err), "%q", value)
	}
	for value, want := range map[string]string{
		"": "", "\x00\x04\x00\x00": "", "\x00\x06\x00\x01ab": "ab",
		"\x00": "bad", "\x01\x04\x00\x00": "bad", "\x00\x05\x00\x00": "bad", "\x00\x04\x01\x00": "bad",
	} {
		got, err := parseMetacopy([]byte(value))
		if want == "bad" {
			assert.Assert(t, errdefs.IsDataLoss(err), "%q", value)
			continue
		}
		assert.NilError(t, err)
		assert.Equal(t, string(got), want)
	}
}

// FuzzMarks holds that no attribute leads out of a layer or makes the parsers fail.
func FuzzMarks(f *testing.F) {
	for _, seed := range []string{"y", "x", "", "name", "/a/b", "/..", "a/../b", "/a//b", "\x00\x04\x00\x00", "\x00\x24\x00\x01" + strings.Repeat("d", 32)} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		if parseOpaque(value) == opaque && string(value) != "y" {
			t.Errorf("%q is opaque", value)
		}
		if path, err := parseRedirect(value); err == nil {
			if path != string(value) || strings.Contains("/"+path+"/", "/../") || strings.Contains(path, "//") || path == "" {
				t.Errorf("redirect %q accepted as %q", value, path)
			}
			if strings.Contains(path, "/") && path[0] != '/' {
				t.Errorf("redirect %q is relative and leads into a directory", value)
			}
		}
		if digest, err := parseMetacopy(value); err == nil && len(digest) > len(value) {
			t.Errorf("digest of %d bytes in %d", len(digest), len(value))
		}
	})
}
