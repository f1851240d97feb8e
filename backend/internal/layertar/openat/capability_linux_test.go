package openat

import (
	"testing"

	"gotest.tools/v3/assert"
)

// TestRootlessCapability packs capabilities without the root of a user namespace.
func TestRootlessCapability(t *testing.T) {
	// Revision 2, effective, CAP_NET_RAW permitted (linux/capability.h).
	const caps = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	namespaced := "\x01\x00\x00\x03" + caps[4:] + "\xa0\x86\x01\x00"
	assert.Equal(t, string(rootlessCapability([]byte(namespaced))), caps)
}
