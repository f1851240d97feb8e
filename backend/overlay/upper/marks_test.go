package upper

import (
	"testing"

	"gotest.tools/v3/assert"
)

func TestParseMarks(t *testing.T) {
	for value, want := range map[string]opaqueness{"y": opaque, "x": whiteouts, "": merged, "Y": merged, "yy": merged, "y\x00": merged} {
		assert.Equal(t, parseOpaque([]byte(value)), want, "%q", value)
	}
}
