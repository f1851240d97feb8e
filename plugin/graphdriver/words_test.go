package graphdriver

import (
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"gotest.tools/v3/assert"
)

// TestWordsForPeople: what Docker shows to its users has the host's paths, and no classes.
func TestWordsForPeople(t *testing.T) {
	r := newRig(t, Options{HostText: func(text string) string { return strings.ReplaceAll(text, "/store", "/host") }})
	r.init()
	r.fake.onAny = func(string) error {
		return fmt.Errorf("open /store/x: %w: %w", errdefs.ErrFailedPrecondition, errdefs.ErrUnavailable)
	}
	_, err := r.call("Get", arguments{ID: id("a")})
	assert.ErrorContains(t, err, "open /host/x")
	assert.Assert(t, strings.HasSuffix(err.Error(), "open /host/x"), "%v", err)
}
