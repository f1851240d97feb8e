package layertar

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
	list           string   // 0.1: numbers between commas
	pairs          []string // 0.0
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
	case "map":
		p.list = value
	case "offset", "numbytes":
		if (len(p.pairs)%2 == 0) != (name == "offset") {
			return fmt.Errorf("GNU.sparse.%s out of order: %w", name, errdefs.ErrInvalidArgument)
		}
		p.pairs = append(p.pairs, value)
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
	case p.list != "" || len(p.pairs) > 0:
		return mapInPAX, nil
	}
	return notSparse, nil
}

// apply sets the entry's real name and size.
func (p *paxSparse) apply(e *entry) error {
	e.name = first(p.name, e.name)
	if strings.Contains(e.name, "\x00") {
		return fmt.Errorf("GNU.sparse.name %q contains a NUL: %w", e.name, errdefs.ErrInvalidArgument)
	}
	size := first(p.size, p.realSize)
	if size == "" {
		return nil
	}
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil {
		return fmt.Errorf("GNU.sparse size %q: %w", size, errdefs.ErrInvalidArgument)
	}
	e.size = n
	return nil
}

// segments returns the map of versions 0.0 and 0.1.
func (p *paxSparse) segments() ([]segment, error) {
	numbers := p.pairs
	if len(numbers) == 0 && p.list != "" {
		numbers = strings.Split(p.list, ",")
	}
	if want, err := strconv.Atoi(p.blocks); err != nil || want < 0 || len(numbers)%2 != 0 || want != len(numbers)/2 {
		return nil, fmt.Errorf("sparse map has %d numbers, want %q pairs: %w", len(numbers), p.blocks, errdefs.ErrInvalidArgument)
	}
	return parsePairs(numbers)
}

func parsePairs(numbers []string) ([]segment, error) {
	if len(numbers)/2 > maxSegments {
		return nil, fmt.Errorf("sparse map has %d segments, at most %d are allowed: %w", len(numbers)/2, maxSegments, errdefs.ErrInvalidArgument)
	}
	var list []segment
	for i := 0; i+1 < len(numbers); i += 2 {
		offset, err := strconv.ParseInt(numbers[i], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("sparse offset %q: %w", numbers[i], errdefs.ErrInvalidArgument)
		}
		length, err := strconv.ParseInt(numbers[i+1], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("sparse length %q: %w", numbers[i+1], errdefs.ErrInvalidArgument)
		}
		list = append(list, segment{offset, length})
	}
	return list, nil
}

// blockSegments reads the segments in a run of 24-byte pairs, up to the first that is empty.
func blockSegments(list []segment, b []byte) ([]segment, error) {
	for ; len(b) >= 24 && b[0] != 0; b = b[24:] {
		offset, err := number(b[:12])
		if err != nil {
			return nil, fmt.Errorf("sparse offset: %w", err)
		}
		length, err := number(b[12:24])
		if err != nil {
			return nil, fmt.Errorf("sparse length: %w", err)
		}
		if len(list) == maxSegments {
			return nil, fmt.Errorf("sparse map has more than %d segments: %w", maxSegments, errdefs.ErrInvalidArgument)
		}
		list = append(list, segment{offset, length})
	}
	return list, nil
}

// checkSegments accepts segments that are in order, do not overlap, lie within size and make up
// stored bytes of data together.
func checkSegments(list []segment, size, stored int64) error {
	var end, sum int64
	for _, s := range list {
		if s.offset < end || s.length < 0 || s.offset > math.MaxInt64-s.length || s.offset+s.length > size {
			return fmt.Errorf("sparse segment %d+%d is out of place in a file of %d bytes: %w", s.offset, s.length, size, errdefs.ErrInvalidArgument)
		}
		end = s.offset + s.length
		sum += s.length
	}
	if size < 0 || sum != stored {
		return fmt.Errorf("sparse map of a file of %d bytes names %d bytes of data, %d are stored: %w", size, sum, stored, errdefs.ErrInvalidArgument)
	}
	return nil
}
