package daemon

import (
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
	"gotest.tools/v3/assert"
)

// parse reads a mount table in the format of /proc/self/mountinfo, without its empty lines.
func parse(t *testing.T, text string) []*mountinfo.Info {
	t.Helper()
	text = strings.ReplaceAll(text, "\n\n", "\n")
	mounts, err := mountinfo.GetMountsFromReader(strings.NewReader(text), nil)
	assert.NilError(t, err)
	return mounts
}
