package layertar

import (
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"

	"strata/backend"
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

// maxName bounds the name of an entry, and the path that symlinks make of it, bytes: a hard link and its target fit into an extension
// header. So what is unpacked can be packed again, and what is packed can be unpacked. Linux makes directories that are deeper.
const maxName = maxSpecial/2 - (4 << 10)

// maxDepth bounds how many directories a name may name.
const maxDepth = 16 << 10

// CheckName refuses a name that is too long or too deep.
func CheckName(name string) error {
	if len(name) > maxName {
		return fmt.Errorf("name of %d bytes, the most is %d: %w", len(name), maxName, errdefs.ErrInvalidArgument)
	}
	if n := strings.Count(name, "/"); n > maxDepth {
		return fmt.Errorf("name through %d directories, the most is %d: %w", n, maxDepth, errdefs.ErrInvalidArgument)
	}
	return nil
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

// cleanName makes a name from a tar a clean path relative to the layer's root, "." for the root itself,
// as if the tar were unpacked at "/": ".." in the root is the root, as in Docker and containerd.
func cleanName(name string) string {
	clean := path.Clean("/" + name)[1:]
	if clean == "" {
		return "."
	}
	return clean
}

// isHere reports whether a name says nothing but "here": an empty one, "." or "./". Docker and containerd pass over
// such an entry whatever it is; most tars begin with one, which tells of the directory that somebody packed.
func isHere(name string) bool { return path.Clean(name) == "." }

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

// Attributes that hold ACLs.
const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
)

// foreignXattr reports whether an attribute is a mark of overlayfs that could act where the layer is mounted, and redirect
// lookups into other layers: it is neither unpacked nor packed. The marks in user.* that an overlay inside a container makes
// are content like any other, unless the layer's own are called so. Those in trusted.* are left out whatever
// mounts the layer.
func foreignXattr(name string, marks backend.Whiteouts) bool {
	return strings.HasPrefix(name, "trusted.overlay.") ||
		marks == backend.WhiteoutsOverlayUser && strings.HasPrefix(name, "user.overlay.")
}

// packedXattr tells which attributes go into a tar: Docker's user.* and security.capability, and
// besides them ACLs and trusted.* as far as they are not overlayfs's. Labels of the host stay out.
func packedXattr(name string, marks backend.Whiteouts) bool {
	if foreignXattr(name, marks) {
		return false
	}
	return strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "trusted.") ||
		name == "security.capability" || name == aclAccess || name == aclDefault
}
