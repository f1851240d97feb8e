package mounttable

import (
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// TestLongLines holds the table readable beside a mount of somebody else with 500 lower directories.
func TestLongLines(t *testing.T) {
	lowers := strings.Repeat(":/"+strings.Repeat("x", 200), 500)
	table := "20 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n" +
		"21 20 0:40 / /other rw - overlay overlay rw,lowerdir=" + lowers + ",upperdir=/u,workdir=/w\n" +
		"22 20 0:41 / /ours rw - tmpfs none rw,size=4k\n"
	entries, err := parse([]byte(table), nil)
	assert.NilError(t, err)
	assert.Equal(t, len(entries), 3)
	assert.Equal(t, entries[1].Mountpoint, "/other")
	assert.Assert(t, strings.HasPrefix(entries[1].VFSOptions, "rw,lowerdir=:/xxx"))
	assert.Equal(t, entries[2].VFSOptions, "rw,size=4k")
}
