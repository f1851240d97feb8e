package upper

import (
	"fmt"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strata/backend"
	"strata/backend/internal/dirfd"
	"strata/backend/internal/treediff"
)

// file is a name in a directory with its attributes.
type file struct{ treediff.File }

// lstat returns nil if there is no such name.
func lstat(d dirfd.Dir, name string) (*file, error) {
	f, err := treediff.Lstat(d, name)
	if f == nil || err != nil {
		return nil, err
	}
	return &file{*f}, nil
}

func (f *file) isDevice0() bool { return f.Kind() == unix.S_IFCHR && f.Stat.Rdev == 0 }

// xattr returns nil, false for an attribute that the file does not have.
func (f *file) xattr(name string) ([]byte, bool, error) { return f.Dir.File(f.Name).Xattr(name) }

// Marks are overlayfs's own attributes, as the mounts write them.
type Marks struct {
	// Kind is [backend.WhiteoutsOverlay] or [backend.WhiteoutsOverlayUser].
	Kind   backend.Whiteouts
	prefix string
}

// Trusted are the marks of a mount without the option userxattr.
func Trusted() Marks { return Marks{backend.WhiteoutsOverlay, "trusted.overlay."} }

// User are those of a mount with it.
func User() Marks { return Marks{backend.WhiteoutsOverlayUser, "user.overlay."} }

// IsNone reports whether an attribute is no mark.
func (m Marks) IsNone(name string) bool { return dirfd.RoleOf(name, m.Kind) != dirfd.Mark }

// isWhiteout reports whether a file stands for a deletion.
func (m Marks) isWhiteout(f *file) (bool, error) {
	if f.isDevice0() {
		return true, nil
	}
	if f.Kind() != unix.S_IFREG || f.Stat.Size != 0 {
		return false, nil
	}
	_, marked, err := f.xattr(m.prefix + markWhiteout)
	return marked, dirfd.IgnoreVanished(err)
}

// ofDirectory reads a directory's marks. ErrNotImplemented for one whose content lies elsewhere.
func (m Marks) ofDirectory(f *file) (opaqueness, error) {
	target, marked, err := f.xattr(m.prefix + markRedirect)
	if err != nil {
		return merged, err
	}
	if marked {
		return merged, fmt.Errorf("%s is redirected to %q: written by an overlay mount with redirect_dir=on: %w",
			f.Path(), target, errdefs.ErrNotImplemented)
	}
	value, _, err := f.xattr(m.prefix + markOpaque)
	return parseOpaque(value), err
}

// refuseMetacopy returns ErrNotImplemented for a regular file whose content lies in another layer.
func (m Marks) refuseMetacopy(f *file) error {
	_, marked, err := f.xattr(m.prefix + markMetacopy)
	if !marked || err != nil {
		return err
	}
	return fmt.Errorf("%s has no content of its own: written by an overlay mount with metacopy=on: %w", f.Path(), errdefs.ErrNotImplemented)
}
