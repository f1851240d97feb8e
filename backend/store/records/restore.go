package records

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"math/bits"
	"slices"
)

// Bad is a record that cannot be used.
type Bad struct {
	ID   string
	File string // its name in the directory
	Err  error
	Says *Record // what it says, or said before it was damaged; nil if nobody can tell
	How  string  // how that was found, "" if the record is not damaged and only not to be used
	Read bool    // its damaged text was read as it is: any word of it may be wrong
	Of   string  // the ID of the layer whose record it is, whole, in the place of this one's; "" if it is not
}

// restore finds out what a damaged record said, if somebody can tell.
func (b *Bad) restore(text []byte) {
	if fixed, where := flipBack(text); fixed != nil {
		var r Record
		if decode(fixed, &r) == nil && r.check(b.ID) == nil {
			b.Says, b.How = &r, where
			return
		}
	}
	line, _, _ := bytes.Cut(text, []byte{'\n'})
	var r Record
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields() // a name of a field may be damaged, too
	if d.Decode(&r) != nil || d.InputOffset() != int64(len(line)) || r.check(b.ID) != nil || CheckName(r.Name) != nil || r.Created.IsZero() {
		return
	}
	b.Says, b.How, b.Read = &r, "its text can be read, but its checksum is that of another text: it was edited, or more than one bit is wrong", true
}

// sumLength is the length of a record's last line.
const sumLength = 9

// flipBack returns the text with a bit turned such that its checksum is right, and where that was; nil if there is none. Of two
// texts of this kind with right checksums at least six bits differ in any 5,000 bits, and four in any 2^31.
func flipBack(text []byte) ([]byte, string) {
	n := len(text) - sumLength
	if n <= 0 {
		return nil, ""
	}
	line, sum := text[:n], text[n:]
	is := crc32.Checksum(line, castagnoli)
	right := fmt.Appendf(nil, "%08x\n", is)
	var wrong uint32
	if wrongBits(sum, right) == 1 {
		return slices.Concat(line, right), "one bit of its checksum is wrong"
	}
	if _, err := fmt.Sscanf(string(sum), "%08x\n", &wrong); err != nil {
		return nil, ""
	}
	i, bit := flippedBit(is^wrong, n)
	if i < 0 {
		return nil, ""
	}
	fixed := bytes.Clone(text)
	fixed[i] ^= 1 << bit
	return fixed, fmt.Sprintf("one bit of it is wrong, in byte %d", i)
}

func wrongBits(a, b []byte) (n int) {
	for i := range a {
		n += bits.OnesCount8(a[i] ^ b[i])
	}
	return n
}

// flippedBit returns which bit of n bytes, flipped, changes their CRC-32C by that much, a byte of -1 if none does. It goes from
// the last byte to the first: what a bit changes there is what it changes in the byte behind, one zero byte later.
func flippedBit(change uint32, n int) (index, bit int) {
	var changes [8]uint32
	for bit := range changes {
		changes[bit] = castagnoli[1<<bit]
	}
	for i := n - 1; i >= 0; i-- {
		if bit := slices.Index(changes[:], change); bit >= 0 {
			return i, bit
		}
		for bit, c := range changes {
			changes[bit] = castagnoli[byte(c)] ^ c>>8
		}
	}
	return -1, 0
}
