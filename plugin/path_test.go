package plugin

import (
	"testing"

	"gotest.tools/v3/assert"
)

func TestBelow(t *testing.T) {
	for _, tc := range []struct {
		dir, path, rest string
		ok              bool
	}{
		{"/a", "/a/b/c", "b/c", true},
		{"/a", "/a", ".", true},
		{"/a/", "/a/b", "b", true},
		{"/", "/a", "a", true},
		{"/a", "/ab", "", false},
		{"/a", "/", "", false},
		{"/a", "/a/../b", "", false},
		{"/a", "/a/..b", "..b", true},
		{"", "/a", "", false},
		{"", "", "", false},
	} {
		rest, ok := Below(tc.dir, tc.path)
		assert.Equal(t, ok, tc.ok, "%v", tc)
		assert.Equal(t, rest, tc.rest, "%v", tc)
	}
}
