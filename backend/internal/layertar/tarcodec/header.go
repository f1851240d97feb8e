package tarcodec

import (
	"bytes"
	"fmt"

	"github.com/containerd/errdefs"
)

// BlockSize is the unit of a tar: headers are one block, everything else is padded to blocks.
const BlockSize = 512

// rawHeader is a header block as it stands in the tar.
type rawHeader [BlockSize]byte

// Fields of a header block. The first ten are common to all formats; prefix belongs to ustar, the
// last four to old GNU tar (GNU tar manual, "Basic Tar Format").
type field struct{ start, end int }

func (h *rawHeader) bytes(f field) []byte { return h[f.start:f.end] }

var (
	fieldName      = field{0, 100}
	fieldMode      = field{100, 108}
	fieldUID       = field{108, 116}
	fieldGID       = field{116, 124}
	fieldSize      = field{124, 136}
	fieldMtime     = field{136, 148}
	fieldChecksum  = field{148, 156}
	fieldLink      = field{157, 257}
	fieldMagic     = field{257, 265} // with the version
	fieldMajor     = field{329, 337}
	fieldMinor     = field{337, 345}
	fieldPrefix    = field{345, 500}
	fieldStarPre   = field{345, 476}
	fieldStarAtime = field{476, 488}
	fieldStarTail  = field{508, 512}
	fieldGNUAtime  = field{345, 357}
	fieldGNUSparse = field{386, 482} // four segments of two numbers of 12 bytes
	fieldGNUReal   = field{483, 495}
)

const (
	typeOffset        = 156
	gnuExtendedOffset = 482
)

// format is the dialect of a header block, told by its magic.
type format int

const (
	formatV7 format = iota
	formatUstar
	formatStar
	formatGNU
)

func (h *rawHeader) format() format {
	magic := h.bytes(fieldMagic)
	switch {
	case string(magic) == "ustar  \x00":
		return formatGNU
	case string(magic[:6]) != "ustar\x00":
		return formatV7
	case string(h.bytes(fieldStarTail)) == "tar\x00":
		return formatStar
	}
	return formatUstar
}

// verify compares the block with its checksum: the sum of all bytes, those of the checksum itself
// counted as spaces. Old tars summed signed bytes.
func (h *rawHeader) verify() error {
	want, err := number(h.bytes(fieldChecksum))
	if err != nil {
		return fmt.Errorf("checksum: %w", err)
	}
	if unsigned, signed := h.sums(); want != unsigned && want != signed {
		return fmt.Errorf("header checksum is %#o, want %#o: %w", unsigned, want, errdefs.ErrInvalidArgument)
	}
	return nil
}

func (h *rawHeader) sums() (unsigned, signed int64) {
	var high int64 // bytes above 127: 256 less each when signed
	for _, c := range h {
		unsigned += int64(c)
		high += int64(c >> 7)
	}
	for _, c := range h.bytes(fieldChecksum) {
		unsigned += ' ' - int64(c)
		high -= int64(c >> 7)
	}
	return unsigned, unsigned - 256*high
}

// number reads a numeric field: octal digits between spaces and NULs, or, with the top bit set, a
// big-endian two's complement number (base 256).
func number(b []byte) (int64, error) {
	if b[0]&0x80 != 0 {
		return base256(b)
	}
	b = bytes.Trim(b, " \x00")
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	var n int64
	for _, c := range b {
		if c < '0' || c > '7' || n > 1<<60-1 {
			return 0, fmt.Errorf("number %q is not octal: %w", b, errdefs.ErrInvalidArgument)
		}
		n = n<<3 | int64(c-'0')
	}
	return n, nil
}

func base256(b []byte) (int64, error) {
	var flip byte
	if b[0]&0x40 != 0 {
		flip = 0xff
	}
	var n uint64
	for i, c := range b {
		c ^= flip
		if i == 0 {
			c &= 0x7f
		}
		if n>>55 != 0 {
			return 0, fmt.Errorf("number %x does not fit in 64 bits: %w", b, errdefs.ErrInvalidArgument)
		}
		n = n<<8 | uint64(c)
	}
	if flip != 0 {
		return ^int64(n), nil //nolint:gosec // n < 2^63
	}
	return int64(n), nil //nolint:gosec // n < 2^63
}

// text reads a string field: up to the first NUL.
func text(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// decode fills e from the block. Extension headers are worked in afterwards.
func (h *rawHeader) decode(e *Entry) error {
	var mode int64
	for _, f := range []struct {
		name string
		at   field
		to   *int64
	}{
		{"mode", fieldMode, &mode},
		{"uid", fieldUID, &e.UID},
		{"gid", fieldGID, &e.GID},
		{"size", fieldSize, &e.Size},
		{"mtime", fieldMtime, &e.Mtime.Sec},
	} {
		n, err := number(h.bytes(f.at))
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		*f.to = n
	}
	e.Mode = uint32(mode & ModeBits)
	e.Kind = h[typeOffset]
	e.Name = text(h.bytes(fieldName))
	e.Link = text(h.bytes(fieldLink))
	return h.decodeExtra(e)
}

// decodeExtra reads what the old v7 format did not have.
func (h *rawHeader) decodeExtra(e *Entry) error {
	form := h.format()
	if form == formatV7 {
		return nil
	}
	var err error
	if e.Major, err = number(h.bytes(fieldMajor)); err != nil {
		return fmt.Errorf("device major: %w", err)
	}
	if e.Minor, err = number(h.bytes(fieldMinor)); err != nil {
		return fmt.Errorf("device minor: %w", err)
	}
	prefix := ""
	switch form {
	case formatV7:
	case formatUstar:
		prefix = text(h.bytes(fieldPrefix))
	case formatStar:
		prefix = text(h.bytes(fieldStarPre))
		if e.Atime.Sec, err = number(h.bytes(fieldStarAtime)); err != nil {
			return fmt.Errorf("atime: %w", err)
		}
	case formatGNU:
		prefix = h.decodeGNU(e)
	}
	if prefix != "" {
		e.Name = prefix + "/" + e.Name
	}
	return nil
}

// decodeGNU reads GNU's access time, which stands where ustar has its prefix. Some writers put the
// prefix there all the same (golang.org/issue/12594): what is no number is taken for one.
func (h *rawHeader) decodeGNU(e *Entry) (prefix string) {
	b := h.bytes(fieldGNUAtime)
	if b[0] == 0 {
		return ""
	}
	sec, err := number(b)
	if err == nil {
		e.Atime.Sec = sec
		return ""
	}
	prefix = text(h.bytes(fieldPrefix))
	for _, c := range []byte(prefix) {
		if c >= 0x80 {
			return ""
		}
	}
	return prefix
}
