package layertar

import (
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"
)

// Names with a meaning of their own in a layer tar (OCI image spec, layer.md; the meta names are
// AUFS's).
const (
	whiteoutPrefix = ".wh."
	metaPrefix     = ".wh..wh."
	opaqueMark     = ".wh..wh..opq"
	linkArea       = ".wh..wh.plnk" // directory in the root with hard-link targets
)

// meaning is what an entry's name asks for.
type meaning int

const (
	ordinary   meaning = iota
	skipped            // AUFS's own bookkeeping
	linkTarget         // a file in the link area
	opaque             // hide what the parents have in the directory
	whiteout           // delete the name after the prefix
)

// classify tells what a clean relative path means in a layer tar.
func classify(name string) meaning {
	base := path.Base(name)
	switch {
	case base == opaqueMark:
		return opaque
	case strings.HasPrefix(name, linkArea+"/"):
		return linkTarget
	case strings.HasPrefix(name, metaPrefix), strings.HasPrefix(base, metaPrefix):
		return skipped
	case strings.HasPrefix(base, whiteoutPrefix):
		return whiteout
	}
	return ordinary
}

// whiteoutTarget returns the name that a whiteout deletes. ".wh.", ".wh.." and ".wh..." would
// delete the directory itself or its parent.
func whiteoutTarget(base string) (string, error) {
	name := strings.TrimPrefix(base, whiteoutPrefix)
	if name == "" || name == "." || name == ".." {
		return "", fmt.Errorf("whiteout %q names no file: %w", base, errdefs.ErrInvalidArgument)
	}
	return name, nil
}

// cleanName makes a name from a tar a clean path relative to the layer's root, "." for the root
// itself. Absolute names are relative to the root. Names that climb out of it are an error, as in
// Docker.
func cleanName(name string) (string, error) {
	if name == "" {
		return "", fmt.Errorf("empty name: %w", errdefs.ErrInvalidArgument)
	}
	clean := path.Clean(name)
	if clean[0] == '/' {
		clean = strings.TrimPrefix(clean, "/")
		if clean == "" {
			clean = "."
		}
	}
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", fmt.Errorf("name climbs out of the layer: %w", errdefs.ErrInvalidArgument)
	}
	return clean, nil
}

// splitName splits a clean relative path into directory ("." for the root) and name.
func splitName(name string) (dir, base string) {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return ".", name
	}
	return name[:i], name[i+1:]
}

// joinName is the reverse of splitName.
func joinName(dir, base string) string {
	if dir == "." {
		return base
	}
	return dir + "/" + base
}

// within reports whether the clean path name is dir or lies in it.
func within(name, dir string) bool {
	return dir == "." || name == dir || len(name) > len(dir) && name[len(dir)] == '/' && name[:len(dir)] == dir
}

// foreignXattr reports whether an attribute is overlayfs's own. In a layer it would redirect lookups
// into other layers, so it is neither unpacked nor packed.
func foreignXattr(name string) bool {
	return strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.")
}
