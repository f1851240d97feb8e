package tarcodec

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Encoder writes tar headers: ustar, with a PAX header before it for what does not fit. The same
// entry always gives the same bytes. It is for one goroutine.
type Encoder struct {
	buf []byte
	pax []paxRecord
}

type paxRecord struct{ key, value string }

// Encode returns the header blocks of an entry. They are good until the next call. Attributes must be
// sorted by name.
func (c *Encoder) Encode(e *Entry) []byte {
	c.buf, c.pax = c.buf[:0], c.pax[:0]
	prefix, name, fits := splitUstar(e.Name)
	if !fits {
		c.add("path", e.Name)
	}
	if len(e.Link) > 100 || !plain(e.Link) {
		c.add("linkpath", e.Link)
	}
	c.number("size", e.Size, 11)
	c.number("uid", e.UID, 7)
	c.number("gid", e.GID, 7)
	if s := e.Mtime; s.Nsec != 0 || s.Sec < 0 || s.Sec >= 1<<33 {
		c.add("mtime", formatStamp(s))
	}
	for _, x := range e.Xattrs {
		c.add(xattrPrefix+x.Name, x.Value)
	}
	if len(c.pax) > 0 {
		c.extension(e.Name)
	}
	c.block(&Entry{
		Name: name, Link: e.Link, Kind: e.Kind, Mode: e.Mode, UID: e.UID, GID: e.GID, Size: e.Size,
		Mtime: e.Mtime, Major: e.Major, Minor: e.Minor,
	}, prefix)
	return c.buf
}

func (c *Encoder) add(key, value string) { c.pax = append(c.pax, paxRecord{key, value}) }

// number adds a record for a number that does not fit into so many octal digits.
func (c *Encoder) number(key string, n int64, digits int) {
	if n < 0 || n >= 1<<(3*digits) {
		c.add(key, strconv.FormatInt(n, 10))
	}
}

// extension appends the PAX header.
func (c *Encoder) extension(name string) {
	slices.SortFunc(c.pax, func(a, b paxRecord) int { return strings.Compare(a.key, b.key) })
	var data []byte
	for _, r := range c.pax {
		data = appendRecord(data, r)
	}
	dir, base := path.Split(strings.TrimSuffix(name, "/"))
	name = asciiOnly(path.Join(dir, "PaxHeaders.0", base))
	c.block(&Entry{Name: name[:min(len(name), 100)], Kind: 'x', Mode: 0o644, Size: int64(len(data))}, "")
	c.buf = append(c.buf, data...)
	c.buf = append(c.buf, make([]byte, Padding(int64(len(data))))...)
}

// appendRecord appends "LENGTH KEY=VALUE\n", whose length counts its own digits.
func appendRecord(to []byte, r paxRecord) []byte {
	rest := len(r.key) + len(r.value) + 3
	size := rest + len(strconv.Itoa(rest))
	if n := rest + len(strconv.Itoa(size)); n != size {
		size = n
	}
	return fmt.Appendf(to, "%d %s=%s\n", size, r.key, r.value)
}

// formatStamp writes a time as parseStamp reads it.
func formatStamp(s Stamp) string {
	sec, nsec, sign := s.Sec, s.Nsec, ""
	if sec < 0 {
		sign, sec = "-", -sec
		if nsec > 0 {
			sec, nsec = sec-1, 1e9-nsec
		}
	}
	if nsec == 0 {
		return sign + strconv.FormatInt(sec, 10)
	}
	return sign + strings.TrimRight(fmt.Sprintf("%d.%09d", sec, nsec), "0")
}

// splitUstar splits a name into ustar's prefix of 155 bytes and name of 100.
func splitUstar(s string) (prefix, name string, fits bool) {
	if !plain(s) {
		s = asciiOnly(s)
		return "", s[:min(len(s), 100)], false
	}
	if len(s) <= 100 {
		return "", s, true
	}
	if i := strings.LastIndexByte(s[:min(len(s)-1, 156)], '/'); i > 0 && len(s)-i-1 <= 100 {
		return s[:i], s[i+1:], true
	}
	return "", s[:100], false
}

func plain(s string) bool { return asciiOnly(s) == s }

// asciiOnly drops what is not ASCII.
func asciiOnly(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 0x80 || r == 0 {
			return -1
		}
		return r
	}, s)
}

// block appends a ustar header block. Numbers that do not fit are left zero.
func (c *Encoder) block(e *Entry, prefix string) {
	var h rawHeader
	copy(h.bytes(fieldName), e.Name)
	putOctal(h.bytes(fieldMode), int64(e.Mode))
	putOctal(h.bytes(fieldUID), e.UID)
	putOctal(h.bytes(fieldGID), e.GID)
	putOctal(h.bytes(fieldSize), e.Size)
	putOctal(h.bytes(fieldMtime), e.Mtime.Sec)
	h[typeOffset] = e.Kind
	copy(h.bytes(fieldLink), asciiOnly(e.Link))
	copy(h.bytes(fieldMagic), "ustar\x0000")
	putOctal(h.bytes(fieldMajor), e.Major)
	putOctal(h.bytes(fieldMinor), e.Minor)
	copy(h.bytes(fieldPrefix), prefix)
	sum, _ := h.sums()
	copy(h.bytes(fieldChecksum), fmt.Sprintf("%06o\x00 ", sum))
	c.buf = append(c.buf, h[:]...)
}

// putOctal fills a field with octal digits and a NUL.
func putOctal(b []byte, n int64) {
	digits := len(b) - 1
	if n < 0 || n >= 1<<(3*digits) {
		n = 0
	}
	for i := digits - 1; i >= 0; i-- {
		b[i] = '0' + byte(n&7)
		n >>= 3
	}
}
