package tarcodec

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// paxSparse gathers GNU's sparse-file records (GNU tar manual, "Storing Sparse Files"). Version 0.0
// repeats offset and numbytes, 0.1 has one map record, 1.0 puts the map before the data.
type paxSparse struct {
	major, minor   string
	name           string
	size, realSize string
	blocks         string
	list           sparseMap // 0.1: numbers between commas
	pairs          sparseMap // 0.0
}

// sparseMap is a map as it is read: offset and length in turn.
type sparseMap struct {
	segments []Segment
	offset   string // of the next segment, if that has begun
	digits   []byte // of the next number
}

// maxDigits is how many digits a number in a map may have: those of the largest, and a sign.
const maxDigits = 20

// empty reports whether nothing has been read.
func (m *sparseMap) empty() bool { return len(m.segments) == 0 && m.offset == "" && len(m.digits) == 0 }

// text takes a map's text byte by byte. end ends a number.
func (m *sparseMap) text(c, end byte) error {
	if c != end {
		if len(m.digits) == maxDigits {
			return fmt.Errorf("number %q in a sparse map is too long: %w", m.digits, errdefs.ErrInvalidArgument)
		}
		m.digits = append(m.digits, c)
		return nil
	}
	err := m.number(string(m.digits))
	m.digits = m.digits[:0]
	return err
}

// number takes the next number.
func (m *sparseMap) number(s string) error {
	if m.offset == "" {
		if s == "" {
			return fmt.Errorf("sparse map lacks an offset: %w", errdefs.ErrInvalidArgument)
		}
		m.offset = s
		return nil
	}
	offset, err := strconv.ParseInt(m.offset, 10, 64)
	if err != nil {
		return fmt.Errorf("sparse offset %q: %w", m.offset, errdefs.ErrInvalidArgument)
	}
	length, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return fmt.Errorf("sparse length %q: %w", s, errdefs.ErrInvalidArgument)
	}
	m.offset = ""
	return m.add(Segment{offset, length})
}

func (m *sparseMap) add(s Segment) error {
	if len(m.segments) == maxSegments {
		return fmt.Errorf("sparse map has more than %d segments: %w", maxSegments, errdefs.ErrInvalidArgument)
	}
	m.segments = append(m.segments, s)
	return nil
}

func (p *paxSparse) record(name, value string) error {
	switch name {
	case "major":
		p.major = value
	case "minor":
		p.minor = value
	case "name":
		p.name = value
	case "size":
		p.size = value
	case "realsize":
		p.realSize = value
	case "numblocks":
		p.blocks = value
	case "offset", "numbytes":
		if (p.pairs.offset == "") != (name == "offset") {
			return fmt.Errorf("GNU.sparse.%s out of order: %w", name, errdefs.ErrInvalidArgument)
		}
		return p.pairs.number(value)
	}
	return nil
}

// version is how the sparse map is stored.
type version int

const (
	notSparse  version = iota
	mapInPAX           // 0.0 and 0.1
	mapInData          // 1.0
	mapInBlock         // old GNU: in the header block and blocks after it
)

// version tells from the records whether and how the file is sparse. An unknown version is an
// error: archive/tar would unpack the raw map as the file's content.
func (p *paxSparse) version() (version, error) {
	switch {
	case p.major == "0" && (p.minor == "0" || p.minor == "1"):
		return mapInPAX, nil
	case p.major == "1" && p.minor == "0":
		return mapInData, nil
	case p.major != "" || p.minor != "":
		return 0, fmt.Errorf("GNU sparse version %q.%q is not known: %w", p.major, p.minor, errdefs.ErrNotImplemented)
	case !p.list.empty() || !p.pairs.empty():
		return mapInPAX, nil
	}
	return notSparse, nil
}

// apply sets the entry's real name and size.
func (p *paxSparse) apply(e *Entry) error {
	e.Name = first(p.name, e.Name)
	if strings.Contains(e.Name, "\x00") {
		return fmt.Errorf("GNU.sparse.name %q contains a NUL: %w", e.Name, errdefs.ErrInvalidArgument)
	}
	size := first(p.size, p.realSize)
	if size == "" {
		return nil
	}
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil {
		return fmt.Errorf("GNU.sparse size %q: %w", size, errdefs.ErrInvalidArgument)
	}
	e.Size = n
	return nil
}

// segments returns the map of versions 0.0 and 0.1.
func (p *paxSparse) segments() ([]Segment, error) {
	m := &p.pairs
	if m.empty() {
		m = &p.list
	}
	if want, err := strconv.Atoi(p.blocks); err != nil || m.offset != "" || want != len(m.segments) {
		return nil, fmt.Errorf("sparse map has %d segments, want %q: %w", len(m.segments), p.blocks, errdefs.ErrInvalidArgument)
	}
	return m.segments, nil
}

// lines takes a block of the map of version 1.0 and returns how many segments that is to have, want as soon as it is known.
func (m *sparseMap) lines(b []byte, want int) (int, error) {
	for _, c := range b {
		if want >= 0 && len(m.segments) == want { // what follows pads the block
			break
		}
		if err := m.text(c, '\n'); err != nil {
			return want, err
		}
		if want >= 0 || m.offset == "" {
			continue
		}
		n, err := strconv.Atoi(m.offset)
		if err != nil || n < 0 || n > maxSegments {
			return want, fmt.Errorf("sparse map of %q segments, at most %d are allowed: %w", m.offset, maxSegments, errdefs.ErrInvalidArgument)
		}
		want, m.offset = n, ""
	}
	return want, nil
}

// block takes a run of 24-byte pairs of the old GNU format, up to the first that is empty.
func (m *sparseMap) block(b []byte) error {
	for ; len(b) >= 24 && b[0] != 0; b = b[24:] {
		offset, err := number(b[:12])
		if err != nil {
			return fmt.Errorf("sparse offset: %w", err)
		}
		length, err := number(b[12:24])
		if err != nil {
			return fmt.Errorf("sparse length: %w", err)
		}
		if err := m.add(Segment{offset, length}); err != nil {
			return err
		}
	}
	return nil
}

// CheckSegments accepts segments that are in order, do not overlap, lie within size and make up
// stored bytes of data together.
func CheckSegments(list []Segment, size, stored int64) error {
	var end, sum int64
	for _, s := range list {
		if s.Offset < end || s.Length < 0 || s.Offset > math.MaxInt64-s.Length || s.Offset+s.Length > size {
			return fmt.Errorf("sparse segment %d+%d is out of place in a file of %d bytes: %w", s.Offset, s.Length, size, errdefs.ErrInvalidArgument)
		}
		end = s.Offset + s.Length
		sum += s.Length
	}
	if size < 0 || sum != stored {
		return fmt.Errorf("sparse map of a file of %d bytes names %d bytes of data, %d are stored: %w", size, sum, stored, errdefs.ErrInvalidArgument)
	}
	return nil
}

// first returns the first string that is not empty.
func first(s ...string) string {
	for _, v := range s {
		if v != "" {
			return v
		}
	}
	return ""
}
