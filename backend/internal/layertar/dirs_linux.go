package layertar

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// impliedMode is the mode of directories that a tar mentions only in the names of other entries.
const impliedMode = 0o755

// directory unpacks a directory. One that is there already gets the new properties and keeps what
// it holds.
func (a *applier) directory(parent *dir, base string, at *attrs) error {
	path := joinName(parent.path, base)
	is, err := a.present(parent, base, path)
	if err != nil {
		return err
	}
	var d *dir
	if is == presentDir {
		d, err = a.tree.lookup(path)
	} else {
		d, err = a.replaceByDir(parent, base, path, at.mode, is)
	}
	if err != nil {
		return err
	}
	defer d.unpin()
	if err := d.dress(at, is != presentDir && parent.acl); err != nil {
		return err
	}
	d.timed, d.times = true, at.times // set when it is closed
	a.tree.made[a.tree.key(path)] = made{dir: true, fresh: d.fresh, timed: true}
	return nil
}

// imply makes a directory that the tar has not mentioned so far.
func (a *applier) imply(parent *dir, base string) (*dir, error) {
	path := joinName(parent.path, base)
	is, err := a.present(parent, base, path)
	if err != nil {
		return nil, err
	}
	d, err := a.replaceByDir(parent, base, path, impliedMode, is)
	if err != nil {
		return nil, err
	}
	at := attrs{mode: impliedMode, uid: a.rootUID, gid: a.rootGID}
	if err := d.dress(&at, parent.acl); err != nil {
		d.unpin()
		return nil, err
	}
	return d, nil
}

// replaceByDir makes a new directory, pinned, in place of what is there. In the overlay dialects
// what was there hid the parents' directory, so the new one has to be opaque.
func (a *applier) replaceByDir(parent *dir, base, path string, mode uint32, is present) (*dir, error) {
	if is != absent {
		if err := a.remove(parent, base, path, is); err != nil {
			return nil, err
		}
	}
	if err := unix.Mkdirat(parent.fd, base, mode&0o777); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	a.tree.made[a.tree.key(path)] = made{dir: true, fresh: true}
	fd, err := openAt(parent.fd, base, dirFlags)
	if err != nil {
		return nil, fmt.Errorf("open new directory: %w", err)
	}
	d, err := a.tree.add(path, fd)
	if err != nil {
		return nil, err
	}
	if is != absent && a.opaque != "" {
		if err := d.setOpaque(a.opaque); err != nil {
			d.unpin()
			return nil, err
		}
	}
	return d, nil
}

// dress gives the directory its properties, times excepted. inherited says that it was just made and
// has its parent's ACLs.
func (d *dir) dress(at *attrs, inherited bool) error {
	if err := (node{fd: d.fd, dir: d.fd, name: ".", acl: inherited}).set(at); err != nil {
		return err
	}
	d.acl = d.acl && !inherited || at.has(aclDefault)
	return nil
}

func (d *dir) setOpaque(name string) error {
	if err := unix.Fsetxattr(d.fd, name, []byte("y"), 0); err != nil {
		return fmt.Errorf("make directory %q opaque: %w", d.path, err)
	}
	return nil
}

// present is what stands at a path.
type present int

const (
	absent present = iota
	presentDir
	presentOther
)

// present looks at a path that the tar is about to use, and forgets a hard link that was to be made
// there: later entries win.
func (a *applier) present(d *dir, base, path string) (present, error) {
	a.links.cancel(path)
	_, ours := a.tree.made[a.tree.key(path)]
	if d.fresh && !ours {
		return absent, nil
	}
	var st unix.Stat_t
	err := a.tree.stat(d, base, &st)
	switch {
	case errors.Is(err, unix.ENOENT):
		return absent, nil
	case err != nil:
		return absent, fmt.Errorf("look at %q: %w", path, err)
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return presentDir, nil
	}
	return presentOther, nil
}

// vacate removes what stands at a path.
func (a *applier) vacate(d *dir, base, path string) error {
	is, err := a.present(d, base, path)
	if err != nil || is == absent {
		return err
	}
	return a.remove(d, base, path, is)
}

// makeOpaque hides what the parents have in the directory of the mark: everything in it that this
// tar has not put there. Where no directory is there is nothing to hide, nor, as Docker reads it, behind
// a symlink.
func (a *applier) makeOpaque(mark string) error {
	parent, _ := splitName(mark)
	if a.isSymlink(parent) {
		return nil
	}
	d, err := a.markedDir(parent)
	if d == nil || err != nil {
		return err
	}
	defer d.unpin()
	if a.opaque != "" {
		return d.setOpaque(a.opaque)
	}
	if d.fresh {
		return nil
	}
	return a.prune(d)
}

// whiteout deletes the name that the mark names, if it can be there.
func (a *applier) whiteout(mark string) error {
	parent, base := splitName(mark)
	base, err := whiteoutTarget(base)
	if err != nil {
		return err
	}
	d, err := a.markedDir(parent)
	if d == nil || err != nil {
		return err
	}
	defer d.unpin()
	path := joinName(d.path, base)
	if err := a.vacate(d, base, path); err != nil {
		return err
	}
	if a.opaque == "" {
		return nil
	}
	if err := unix.Mknodat(d.fd, base, unix.S_IFCHR, 0); err != nil {
		return fmt.Errorf("make whiteout: %w", err)
	}
	a.tree.made[a.tree.key(path)] = made{gone: true}
	return nil
}

// markedDir returns the directory that a mark is in, pinned, or nil where there can be nothing to
// delete: below a file, or behind a symlink that leads nowhere. One that is missing is made, as Docker
// does.
func (a *applier) markedDir(path string) (*dir, error) {
	d, err := a.tree.find(path)
	if errors.Is(err, unix.ENOENT) && !a.isSymlink(path) {
		d, err = a.tree.get(path)
	}
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil //nolint:nilnil // it is no error, and there is no directory
	}
	return d, err
}

// isSymlink tells whether a symlink stands at a path in a directory that exists.
func (a *applier) isSymlink(path string) bool {
	parent, base := splitName(path)
	d, err := a.tree.find(parent)
	if err != nil {
		return false
	}
	defer d.unpin()
	var st unix.Stat_t
	return a.tree.stat(d, base, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK
}

// errTooMany bounds what hostile tars make us remember.
func errTooMany(what string, limit int) error {
	return fmt.Errorf("more than %d %s: %w", limit, what, errdefs.ErrInvalidArgument)
}
