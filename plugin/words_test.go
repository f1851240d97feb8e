package plugin

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"gotest.tools/v3/assert"
)

func TestPlain(t *testing.T) {
	two := fmt.Errorf("open it: %w: %w", errdefs.ErrFailedPrecondition, errdefs.ErrUnavailable)
	for _, tc := range []struct {
		err  error
		want string
	}{
		{two, "open it"},
		{errors.Join(two, fmt.Errorf("close it: %w", errdefs.ErrDataLoss)), "open it\nclose it"},
		{fmt.Errorf("layer %q: %w", "a", errdefs.ErrNotFound), `layer "a": not found`},
		{fmt.Errorf("say %w: want 1", errdefs.ErrInvalidArgument), "say invalid argument: want 1"},
		{fmt.Errorf("read it: %w; restore it", errdefs.ErrDataLoss), "read it; restore it"},
		{errdefs.ErrUnavailable, "unavailable"},
		{errors.New(""), ""},
	} {
		assert.Equal(t, Plain(tc.err.Error()), tc.want)
	}
}

func TestRenamer(t *testing.T) {
	host := Renamer(map[string]string{"/data": "/var/lib", "/hostrun": "/run", "/data/of/mine": "/mine"})
	for _, tc := range []struct{ here, there string }{
		{"open /data/strata/lock: denied", "open /var/lib/strata/lock: denied"},
		{`path "/data": gone`, `path "/var/lib": gone`},
		{"lowerdir=/data/a:/data/b,upperdir=/hostrun/x", "lowerdir=/var/lib/a:/var/lib/b,upperdir=/run/x"},
		{"/data/of/mine/x and /data/of/minex", "/mine/x and /var/lib/of/minex"},
		{"/var/data/x /data-x /database ./data/x", "/var/data/x /data-x /database ./data/x"},
		{"", ""},
	} {
		assert.Equal(t, host(tc.here), tc.there)
	}
	top := Renamer(map[string]string{"/data": "/"})
	assert.Equal(t, top("/data and /data/x"), "/ and /x")
	assert.Equal(t, Renamer(nil)("/data/x"), "/data/x")
}

func TestBrief(t *testing.T) {
	for _, tc := range []struct {
		text string
		most int
		want string
	}{
		{"", 0, ""},
		{"abcdef", 6, "abcdef"},
		{"abcdefg", 6, "abc ... efg"},
		{"aäüb" + "cöc", 4, "a ... c"},
	} {
		assert.Equal(t, Brief(tc.text, tc.most), tc.want)
	}
	assert.Assert(t, len(Plain(strings.Repeat("x", 1<<20)+": invalid argument")) <= MaxText+5)
}
