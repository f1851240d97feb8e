package tarcodec

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// xattrPrefix marks PAX records that hold extended attributes; star and GNU tar invented it.
const xattrPrefix = "SCHILY.xattr."

// extension is what the extension headers before an entry say about it. Numbers stay text until
// the entry is complete: an empty value keeps what the header block says.
type extension struct {
	path, link     string // PAX
	size, uid, gid string
	mtime, atime   string
	xattrs         []Xattr
	sparse         paxSparse
	longName       string // GNU, wins over PAX
	longLink       string
}

// paxRecords works the records of a PAX header into an extension as they come, so that a sparse map takes the memory of its
// segments and not of its text. Records that we have no use for are checked and forgotten.
type paxRecords struct {
	x    *extension
	rest []byte // a record that is not whole yet
	size int    // of the records so far that are no part of a sparse map, bytes
	list int    // bytes of a sparse map's record that are still to come
}

// newPAX returns the records of a new header, which replaces all PAX records of x.
func newPAX(x *extension) *paxRecords {
	*x = extension{longName: x.longName, longLink: x.longLink}
	return &paxRecords{x: x}
}

// add takes the next bytes of the header.
func (p *paxRecords) add(b []byte) error {
	data := append(p.rest, b...)
	for len(data) > 0 {
		n, err := p.step(data)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		data = data[n:]
	}
	p.rest = append(p.rest[:0], data...)
	return nil
}

// end says that the header is complete.
func (p *paxRecords) end() error {
	if len(p.rest) > 0 || p.list > 0 {
		return badRecord(p.rest)
	}
	return nil
}

// mapKey begins a record that is taken in pieces.
const mapKey = "GNU.sparse.map="

// step takes what it can from the front of data and returns how much that was, 0 if it needs more.
func (p *paxRecords) step(data []byte) (int, error) {
	if p.list > 0 {
		return p.mapText(data)
	}
	head, n, err := recordLength(data)
	if head == 0 || err != nil {
		return 0, err
	}
	body := data[head:min(n, len(data))]
	switch {
	case n-head > len(mapKey) && strings.HasPrefix(string(body[:min(len(body), len(mapKey))]), mapKey):
		p.list = n - head - len(mapKey)
		p.x.sparse.list = sparseMap{}
		return head + len(mapKey), nil
	case n > len(data) && len(body) < len(mapKey):
		return 0, nil
	case n-head > MaxSpecial:
		return 0, fmt.Errorf("PAX record of %d bytes, at most %d are allowed: %w", n, MaxSpecial, errdefs.ErrInvalidArgument)
	case n > len(data):
		return 0, nil
	}
	return n, p.record(string(body))
}

// record takes "KEY=VALUE\n".
func (p *paxRecords) record(text string) error {
	line, ok := strings.CutSuffix(text, "\n")
	key, value, found := strings.Cut(line, "=")
	if !ok || !found || key == "" || strings.Contains(key, "\x00") {
		return badRecord([]byte(text))
	}
	if key != "GNU.sparse.offset" && key != "GNU.sparse.numbytes" {
		if p.size += len(text); p.size > MaxSpecial {
			return fmt.Errorf("PAX records of more than %d bytes: %w", MaxSpecial, errdefs.ErrInvalidArgument)
		}
	}
	return p.x.record(key, value)
}

// mapText takes a piece of a sparse map, whose record ends with a newline.
func (p *paxRecords) mapText(data []byte) (int, error) {
	data = data[:min(len(data), p.list)]
	for _, c := range data {
		p.list--
		if (c == '\n') != (p.list == 0) {
			return 0, badRecord(data)
		}
		if c == '\n' && p.x.sparse.list.empty() {
			break // a map without segments
		}
		end := byte(',')
		if c == '\n' {
			end = c
		}
		if err := p.x.sparse.list.text(c, end); err != nil {
			return 0, err
		}
	}
	return len(data), nil
}

// recordLength reads the length of the record "LENGTH KEY=VALUE\n", which counts all of it, and returns the length of what is
// before KEY, too: 0 if data ends within that.
func recordLength(data []byte) (head, n int, err error) {
	digits, _, ok := strings.Cut(string(data[:min(len(data), maxRecordDigits+1)]), " ")
	if !ok && len(data) <= maxRecordDigits {
		return 0, 0, nil
	}
	length, err := strconv.ParseUint(digits, 10, 31)
	if !ok || err != nil || length < uint64(len(digits))+2 {
		return 0, 0, badRecord(data)
	}
	return len(digits) + 1, int(length), nil
}

// maxRecordDigits is how many digits the length of a record may have.
const maxRecordDigits = 8

func badRecord(data []byte) error {
	return fmt.Errorf("bad PAX record at %.40q: %w", data[:min(len(data), 40)], errdefs.ErrInvalidArgument)
}

func (x *extension) record(key, value string) error {
	switch key {
	case "path":
		x.path = value
	case "linkpath":
		x.link = value
	case "size":
		x.size = value
	case "uid":
		x.uid = value
	case "gid":
		x.gid = value
	case "mtime":
		x.mtime = value
	case "atime":
		x.atime = value
	case "uname", "gname":
	default:
		if name, ok := strings.CutPrefix(key, xattrPrefix); ok {
			x.xattrs = append(x.xattrs, Xattr{Name: name, Value: value})
			return nil
		}
		if name, ok := strings.CutPrefix(key, "GNU.sparse."); ok {
			return x.sparse.record(name, value)
		}
		return nil
	}
	if key != "size" && strings.Contains(value, "\x00") {
		return fmt.Errorf("PAX record %q contains a NUL: %w", key, errdefs.ErrInvalidArgument)
	}
	return nil
}

// apply works the extension into the entry, sparse maps excepted.
func (x *extension) apply(e *Entry) error {
	for _, f := range []struct {
		name, value string
		to          *int64
	}{{"size", x.size, &e.Size}, {"uid", x.uid, &e.UID}, {"gid", x.gid, &e.GID}} {
		if f.value == "" {
			continue
		}
		n, err := strconv.ParseInt(f.value, 10, 64)
		if err != nil {
			return fmt.Errorf("PAX %s %q: %w", f.name, f.value, errdefs.ErrInvalidArgument)
		}
		*f.to = n
	}
	var err error
	if x.mtime != "" {
		if e.Mtime, err = parseStamp(x.mtime); err != nil {
			return err
		}
	}
	if x.atime != "" {
		if e.Atime, err = parseStamp(x.atime); err != nil {
			return err
		}
	}
	e.Xattrs = x.xattrs
	e.Name = first(x.longName, x.path, e.Name)
	e.Link = first(x.longLink, x.link, e.Link)
	return nil
}

// parseStamp reads seconds with an optional fraction, of which nine digits count.
func parseStamp(s string) (Stamp, error) {
	bad := fmt.Errorf("PAX time %q: %w", s, errdefs.ErrInvalidArgument)
	whole, fraction, _ := strings.Cut(s, ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		return Stamp{}, bad
	}
	var nsec int64
	for i := range max(9, len(fraction)) {
		digit := byte('0')
		if i < len(fraction) {
			digit = fraction[i]
		}
		if digit < '0' || digit > '9' {
			return Stamp{}, bad
		}
		if i < 9 {
			nsec = nsec*10 + int64(digit-'0')
		}
	}
	if strings.HasPrefix(s, "-") && nsec > 0 {
		return Stamp{sec - 1, 1e9 - nsec}, nil
	}
	return Stamp{sec, nsec}, nil
}
