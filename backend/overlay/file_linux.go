package overlay

import (
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

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
func (f *file) xattr(name string) ([]byte, bool, error) {
	proc := f.Dir.Proc(f.Name)
	missing := false
	value, err := readXattr(func(buf []byte) (int, error) {
		n, err := unix.Lgetxattr(proc, name, buf)
		missing = errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP)
		return n, err
	})
	if err != nil {
		return nil, false, &os.PathError{Op: "read " + name + " of", Path: f.Path(), Err: err}
	}
	return value, !missing, nil
}

// vanished reports whether an error is that of a file that is gone since it was listed.
func vanished(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) }

func ignoreVanished(err error) error {
	if vanished(err) {
		return nil
	}
	return err
}

// marks reads overlayfs's own attributes.
type marks struct{ prefix string }

// marks returns how this overlay's mounts mark files.
func (o *overlay) marks() marks {
	if o.userXattr {
		return marks{"user.overlay."}
	}
	return marks{"trusted.overlay."}
}

// isWhiteout reports whether a file stands for a deletion.
func (m marks) isWhiteout(f *file) (bool, error) {
	if f.isDevice0() {
		return true, nil
	}
	if f.Kind() != unix.S_IFREG || f.Stat.Size != 0 {
		return false, nil
	}
	_, marked, err := f.xattr(m.prefix + markWhiteout)
	return marked, ignoreVanished(err)
}

// ofDirectory reads a directory's marks. ErrNotImplemented for one whose content lies elsewhere.
func (m marks) ofDirectory(f *file) (opaqueness, error) {
	value, marked, err := f.xattr(m.prefix + markRedirect)
	if err != nil {
		return merged, err
	}
	if marked {
		target, err := parseRedirect(value)
		if err != nil {
			return merged, fmt.Errorf("%s: %w", f.Path(), err)
		}
		return merged, fmt.Errorf("%s is redirected to %s: written by an overlay mount with redirect_dir=on: %w",
			f.Path(), target, errdefs.ErrNotImplemented)
	}
	value, _, err = f.xattr(m.prefix + markOpaque)
	return parseOpaque(value), err
}

// refuseMetacopy returns ErrNotImplemented for a regular file whose content lies in another layer.
func (m marks) refuseMetacopy(f *file) error {
	value, marked, err := f.xattr(m.prefix + markMetacopy)
	if !marked || err != nil {
		return err
	}
	if _, err := parseMetacopy(value); err != nil {
		return fmt.Errorf("%s: %w", f.Path(), err)
	}
	return fmt.Errorf("%s has no content of its own: written by an overlay mount with metacopy=on: %w", f.Path(), errdefs.ErrNotImplemented)
}
