package daemon

import (
	"bufio"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// TestParseMounts passes over the line of a layer with more parents than package mountinfo can take.
func TestParseMounts(t *testing.T) {
	table := "23 1 8:1 /a /data rw - ext4 /dev/sda1 rw\n" +
		"24 1 0:99 / /run/strata/x rw - overlay overlay rw,lowerdir=" + strings.Repeat("/lower:", bufio.MaxScanTokenSize/7) + "/last\n" +
		"25 1 8:1 /b /run rw - ext4 /dev/sda1 rw\n"
	mounts, err := parseMounts([]byte(table))
	assert.NilError(t, err)
	assert.Equal(t, len(mounts), 2)
	assert.Equal(t, mounts[1].Mountpoint, "/run")
}
