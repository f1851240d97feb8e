package graphdriver

import (
	"net/url"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

func escape(s string) string { return url.QueryEscape(s) }

// oddIDs are names that no layer may have.
var oddIDs = []string{
	"", " ", ".", "..", "/", "a/b", "/a", ".hidden", "-init", "--help", "a b", "a:b", "a,b", "a+b", "a=b", "a\\b",
	strings.Repeat("a", 129), strings.Repeat("a", 64) + "-init/", strings.Repeat("a", 61) + "/..", "../" + strings.Repeat("a", 61),
	strings.Repeat("a", 63) + "\n", "a\n", "\na", strings.Repeat("a", 64) + "\x00", strings.Repeat("é", 32), "\xff",
}

func TestCheckID(t *testing.T) {
	for _, good := range []string{
		strings.Repeat("0123456789abcdef", 4), strings.Repeat("a", 64) + "-init", "0123456789abcdefghijklmno", strings.Repeat("z", 25),
		"empty", "Base", "a", "_", "0", "Layer_1.2-init", "a..", strings.Repeat("Z", 128),
	} {
		assert.NilError(t, checkID(good))
	}
	for _, odd := range oddIDs {
		assert.Assert(t, errdefs.IsInvalidArgument(checkID(odd)), "%q", odd)
	}
	long := checkID(strings.Repeat("/etc/passwd", 10_000))
	assert.Assert(t, len(long.Error()) < 300, "an error must not be as long as what it is about")
}

func TestParseStorageOptions(t *testing.T) {
	for _, tc := range []struct {
		opts map[string]string
		size int64
		err  string
	}{
		{opts: nil},
		{opts: map[string]string{"size": "0"}},
		{opts: map[string]string{"size": "120"}, size: 120},
		{opts: map[string]string{"size": "10G"}, size: 10 << 30},
		{opts: map[string]string{"Size": "1.5m"}, size: 3 << 19},
		{opts: map[string]string{"size": ""}, err: `storage option size=: `},
		{opts: map[string]string{"size": "-1"}, err: `storage option size=-1: `},
		{opts: map[string]string{"size": "big"}, err: `storage option size=big: `},
		{opts: map[string]string{"size": "9999999T"}, err: `more than 8 EiB`},
		{opts: map[string]string{"colour": "red"}, err: `storage option "colour" is unknown, known are size`},
	} {
		o, err := parseStorageOptions(tc.opts)
		if tc.err != "" {
			assert.Assert(t, errdefs.IsInvalidArgument(err), "%v: %v", tc.opts, err)
			assert.Assert(t, is.Contains(err.Error(), tc.err))
			continue
		}
		assert.NilError(t, err)
		assert.Equal(t, o.size, tc.size)
	}
}
