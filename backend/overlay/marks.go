package overlay

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// Names of overlayfs's attributes, after "trusted.overlay." or "user.overlay.": enum ovl_xattr in
// fs/overlayfs/overlayfs.h.
const (
	markOpaque   = "opaque"
	markRedirect = "redirect"
	markMetacopy = "metacopy"
	markWhiteout = "whiteout"
)

// opaqueness is the value of the opaque mark.
type opaqueness int

const (
	merged    opaqueness = iota // what is below shows through
	opaque                      // "y": it does not
	whiteouts                   // "x": it does, and regular files here may be whiteouts
)

// parseOpaque reads an opaque mark. What the kernel does not know it ignores (ovl_get_dir_xattr_val in
// fs/overlayfs/util.c), and so do we.
func parseOpaque(value []byte) opaqueness {
	switch string(value) {
	case "y":
		return opaque
	case "x":
		return whiteouts
	}
	return merged
}

// parseRedirect reads a redirect mark: an absolute path from the layer's root, or a name next to the
// marked one. The kernel refuses others (ovl_get_redirect_xattr).
func parseRedirect(value []byte) (string, error) {
	path := string(value)
	bad := func(why string) (string, error) {
		return "", fmt.Errorf("redirect %q %s: %w", path, why, errdefs.ErrDataLoss)
	}
	name, absolute := strings.CutPrefix(path, "/")
	if strings.ContainsRune(path, 0) {
		return bad("has a zero byte")
	}
	if !absolute && strings.Contains(name, "/") {
		return bad("is relative and has more than one name")
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." {
			return bad("has a name that is none")
		}
	}
	return path, nil
}

// metacopyHeader is the size of struct ovl_metacopy without a digest: version, length, flags, and
// which digest, a byte each.
const metacopyHeader = 4

// parseMetacopy reads a metacopy mark and returns the digest of the content, nil if there is none. An
// empty value is a mark without one (ovl_check_metacopy_xattr).
func parseMetacopy(value []byte) (digest []byte, err error) {
	if len(value) == 0 {
		return nil, nil
	}
	bad := func(why string) ([]byte, error) {
		return nil, fmt.Errorf("metacopy mark %x %s: %w", value, why, errdefs.ErrDataLoss)
	}
	switch {
	case len(value) < metacopyHeader:
		return bad("is too short")
	case value[0] != 0:
		return bad("has an unknown version")
	case int(value[1]) != len(value):
		return bad("has a wrong length")
	case value[2] != 0:
		return bad("has unknown flags")
	}
	return value[metacopyHeader:], nil
}
