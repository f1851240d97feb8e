package tartest

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// block is a header block. The offsets are those of POSIX ustar and of old GNU tar.
type block [BlockSize]byte

// put writes text at an offset.
func (h *block) put(at int, text string) { copy(h[at:], text) }

// seal writes the checksum.
func (h *block) seal() {
	h.put(148, "        ")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	h.put(148, fmt.Sprintf("%07o", sum))
}

// header returns a sealed header block with a size in octal digits.
func header(name string, kind byte, size int64, change func(h *block)) []byte {
	var h block
	h.put(0, name)
	h.put(100, "0000644\x00")
	h.put(124, fmt.Sprintf("%011o\x00", size))
	h[156] = kind
	h.put(257, "ustar\x0000")
	if change != nil {
		change(&h)
	}
	h.seal()
	return h[:]
}

// Header returns the header block of an entry of any size, which it writes in base 256.
func Header(kind byte, size int64) []byte {
	return header("bomb", kind, 0, func(h *block) {
		for i := range 12 {
			h[135-i] = byte(size >> (8 * min(i, 7)))
			if i > 7 {
				h[135-i] = byte(size >> 63)
			}
		}
		h[124] |= 0x80
	})
}

// Padding is how many zeros follow data of a size.
func Padding(size int64) int64 { return -size & (BlockSize - 1) }

// Record makes a PAX record, which says its own length.
func Record(key, value string) string {
	rest := len(key) + len(value) + 3
	size := rest + len(strconv.Itoa(rest))
	size = rest + len(strconv.Itoa(size))
	return fmt.Sprintf("%d %s=%s\n", size, key, value)
}

// Extension makes an extension header of a kind, with its body.
func Extension(kind byte, body string) []byte {
	b := Header(kind, int64(len(body)))
	b = append(b, body...)
	return append(b, make([]byte, Padding(int64(len(body))))...)
}

// paxHeader makes a PAX header of records that are given one a line.
func paxHeader(lines string) []byte {
	var data strings.Builder
	for line := range strings.SplitSeq(lines, "\n") {
		key, value, _ := strings.Cut(line, "=")
		data.WriteString(Record(key, value))
	}
	return Extension('x', data.String())
}

// SparseKinds are the four ways in which GNU tar stores a sparse file.
func SparseKinds() []string { return []string{"old", "0.0", "0.1", "1.0"} }

// Sparse makes a tar with a sparse file, "f", of so many segments of one byte each. Every other byte
// is a hole. The old kind takes at least five segments.
func Sparse(kind string, segments int) []byte {
	var b bytes.Buffer
	data := bytes.Repeat([]byte{'x'}, segments)
	size := 2 * segments
	switch kind {
	case "old":
		oldSparse(&b, segments)
	case "1.0":
		data = append(sparseText(segments), data...)
		b.Write(paxHeader(fmt.Sprintf("GNU.sparse.major=1\nGNU.sparse.minor=0\nGNU.sparse.name=f\nGNU.sparse.realsize=%d", size)))
	case "0.1":
		var text strings.Builder
		for i := range segments {
			fmt.Fprintf(&text, ",%d,1", 2*i)
		}
		b.Write(paxHeader(fmt.Sprintf("GNU.sparse.size=%d\nGNU.sparse.numblocks=%d\nGNU.sparse.map=%s", size, segments, text.String()[1:])))
	case "0.0":
		var text strings.Builder
		fmt.Fprintf(&text, "GNU.sparse.size=%d\nGNU.sparse.numblocks=%d", size, segments)
		for i := range segments {
			fmt.Fprintf(&text, "\nGNU.sparse.offset=%d\nGNU.sparse.numbytes=1", 2*i)
		}
		b.Write(paxHeader(text.String()))
	}
	if kind != "old" {
		b.Write(header("f", '0', int64(len(data)), nil))
	}
	b.Write(data)
	b.Write(make([]byte, Padding(int64(len(data)))+2*BlockSize))
	return b.Bytes()
}

// oldSparse writes a header with its map: four segments in the header and 21 in each block after it.
func oldSparse(b *bytes.Buffer, segments int) {
	list := make([]byte, 0, 24*segments)
	for i := range segments {
		list = fmt.Appendf(list, "%011o\x00%011o\x00", 2*i, 1)
	}
	for range (21 - (segments-4)%21) % 21 {
		list = append(list, make([]byte, 24)...)
	}
	b.Write(header("f", 'S', int64(segments), func(h *block) {
		h.put(257, "ustar  \x00")
		copy(h[386:], list[:96])
		h[482] = 1
		h.put(483, fmt.Sprintf("%011o", 2*segments))
	}))
	for list = list[96:]; len(list) > 0; list = list[504:] {
		b.Write(list[:504])
		more := make([]byte, 8)
		if len(list) > 504 {
			more[0] = 1
		}
		b.Write(more)
	}
}

// sparseText is the map of version 1.0, padded to a block.
func sparseText(segments int) []byte {
	text := fmt.Appendf(nil, "%d\n", segments)
	for i := range segments {
		text = fmt.Appendf(text, "%d\n1\n", 2*i)
	}
	return append(text, make([]byte, Padding(int64(len(text))))...)
}

// Mend puts right checksums into all blocks that may be headers: otherwise a fuzzer would have to
// find them.
func Mend(data []byte) {
	for ; len(data) >= BlockSize; data = data[BlockSize:] {
		if h := (*block)(data); string(h[257:262]) == "ustar" {
			h.seal()
		}
	}
}
