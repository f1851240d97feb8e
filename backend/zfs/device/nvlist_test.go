package device

import (
	"encoding/hex"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// TestPackList compares a list with one that was put together by hand. That the kernel takes them is what the other tests show.
func TestPackList(t *testing.T) {
	got := packList([]Pair{{"origin", "p@s"}, {"props", []Pair{{"quota", uint64(1 << 40)}, {"x", nil}}}})
	want := strings.Join([]string{
		"01010000",             // XDR, little-endian
		"00000000", "00000001", // version, unique names
		// origin
		"00000024", "00000020", "00000006", "6f726967696e0000", "00000009", "00000001", "00000003", "70407300",
		// props
		"00000068", "00000030", "00000005", "70726f7073000000", "00000013", "00000001",
		"00000000", "00000001",
		"00000024", "00000020", "00000005", "71756f7461000000", "00000008", "00000001", "0000010000000000",
		"00000018", "00000018", "00000001", "78000000", "00000001", "00000000",
		"00000000", "00000000",
		"00000000", "00000000",
	}, "")
	assert.Equal(t, hex.EncodeToString(got), want)
}
