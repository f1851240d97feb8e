package tarcodec

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"

	"strata/backend"
	"strata/backend/internal/dirfd"
)

// Names with a meaning of their own in a layer tar (OCI image spec, layer.md; the meta names are
// AUFS's).
const (
	WhiteoutPrefix = ".wh."
	MetaPrefix     = ".wh..wh."
	OpaqueMark     = ".wh..wh..opq"
	LinkArea       = ".wh..wh.plnk" // directory in the root with hard-link targets
)

// Meaning is what the name of an entry asks for.
type Meaning int

// The meanings.
const (
	Ordinary   Meaning = iota
	Skipped            // AUFS's own bookkeeping
	LinkTarget         // a file in the link area
	Opaque             // hide what the parents have in the directory
	Whiteout           // delete the name after the prefix
)

// Classify tells what a clean relative path means in a layer tar.
func Classify(name string) Meaning {
	base := path.Base(name)
	switch {
	case base == OpaqueMark:
		return Opaque
	case strings.HasPrefix(name, LinkArea+"/"):
		return LinkTarget
	case strings.HasPrefix(name, MetaPrefix), strings.HasPrefix(base, MetaPrefix):
		return Skipped
	case strings.HasPrefix(base, WhiteoutPrefix):
		return Whiteout
	}
	return Ordinary
}

// MaxName bounds the name of an entry, and the path that symlinks make of it, bytes: a hard link and its target fit into an extension
// header. So what is unpacked can be packed again, and what is packed can be unpacked. Linux makes directories that are deeper.
const MaxName = MaxSpecial/2 - (4 << 10)

// maxDepth bounds how many directories a name may name.
const maxDepth = 16 << 10

// CheckName refuses a name that is too long or too deep.
func CheckName(name string) error {
	if len(name) > MaxName {
		return fmt.Errorf("name of %d bytes, the most is %d: %w", len(name), MaxName, errdefs.ErrInvalidArgument)
	}
	if n := strings.Count(name, "/"); n > maxDepth {
		return fmt.Errorf("name through %d directories, the most is %d: %w", n, maxDepth, errdefs.ErrInvalidArgument)
	}
	return nil
}

// WhiteoutTarget returns the name that a whiteout deletes. ".wh.", ".wh.." and ".wh..." would
// delete the directory itself or its parent.
func WhiteoutTarget(base string) (string, error) {
	name := strings.TrimPrefix(base, WhiteoutPrefix)
	if name == "" || name == "." || name == ".." {
		return "", fmt.Errorf("whiteout %q names no file: %w", base, errdefs.ErrInvalidArgument)
	}
	return name, nil
}

// CleanName makes a name from a tar a clean path relative to the layer's root, "." for the root itself,
// as if the tar were unpacked at "/": ".." in the root is the root, as in Docker and containerd.
func CleanName(name string) string {
	clean := path.Clean("/" + name)[1:]
	if clean == "" {
		return "."
	}
	return clean
}

// IsHere reports whether a name says nothing but "here": an empty one, "." or "./". Docker and containerd pass over
// such an entry whatever it is; most tars begin with one, which tells of the directory that somebody packed.
func IsHere(name string) bool { return path.Clean(name) == "." }

// SplitName splits a clean relative path into directory ("." for the root) and name.
func SplitName(name string) (dir, base string) {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return ".", name
	}
	return name[:i], name[i+1:]
}

// JoinName is the reverse of splitName.
func JoinName(dir, base string) string {
	if dir == "." {
		return base
	}
	return dir + "/" + base
}

// Within reports whether the clean path name is dir or lies in it.
func Within(name, dir string) bool {
	return dir == "." || name == dir || len(name) > len(dir) && name[len(dir)] == '/' && name[:len(dir)] == dir
}

// Attributes that hold ACLs.
const (
	ACLAccess  = dirfd.ACL
	ACLDefault = dirfd.DefaultACL
)

// Why an attribute is neither unpacked nor packed.
var (
	errMark    = errors.New("is a mark of overlayfs")
	errStorage = errors.New("is in no namespace of Linux's")
)

// ForeignXattr returns why an attribute is neither unpacked nor packed, nil for others: it is a mark of overlayfs that could act
// where the layer is mounted, and redirect lookups into other layers, or it says how a file system stores the file.
func ForeignXattr(name string, marks backend.Whiteouts) error {
	switch dirfd.RoleOf(name, marks) {
	case dirfd.Mark:
		return errMark
	case dirfd.Storage:
		return errStorage
	case dirfd.Content, dirfd.Other:
	}
	return nil
}

// PackedXattr tells which attributes go into a tar: more than Docker's, which are user.* and security.capability.
func PackedXattr(name string, marks backend.Whiteouts) bool {
	return dirfd.RoleOf(name, marks) == dirfd.Content
}
