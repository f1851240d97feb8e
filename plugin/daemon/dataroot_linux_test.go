package daemon

import (
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// TestDataRoot: the mount table of a managed plugin says where Docker's data root is, if the plugin sees it.
func TestDataRoot(t *testing.T) {
	for _, tc := range []struct{ name, data, want string }{
		{"the default", "503 500 8:1 /var/lib /data rw - ext4 /dev/sda1 rw", "/data/docker"},
		{"elsewhere on the file system", "503 500 8:1 /srv /data rw - ext4 /dev/sda1 rw", ""},
		{"on another file system", "503 500 8:2 / /data rw - xfs /dev/sdb rw", ""},
		{"a mount in the data directory", "503 500 8:2 / /data rw - xfs /dev/sdb rw\n504 503 8:1 /var/lib/docker /data/moby rw - ext4 /dev/sda1 rw", "/data/moby"},
		{"the whole file system", "503 500 8:1 / /data rw - ext4 /dev/sda1 rw", "/data/var/lib/docker"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			mounts := parse(t, strings.Replace(inContainer, "%DATA%", tc.data, 1))
			assert.Equal(t, dataRoot(facts{"/propagated", "/data", "/hostrun"}, mounts), tc.want)
		})
	}
	assert.Equal(t, dataRoot(facts{}, nil), "")
}
