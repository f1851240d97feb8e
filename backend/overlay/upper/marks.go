package upper

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
