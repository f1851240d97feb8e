package dirsink

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strata/backend"
	"strata/backend/internal/layertar/openat"
	"strata/backend/internal/layertar/tarcodec"
)

// impliedMode is the mode of directories that a tar mentions only in the names of other entries.
const impliedMode = 0o755

// directory unpacks a directory. One that is there already gets the new properties and keeps what
// it holds.
func (a *sink) directory(parent *dir, base string, at *attrs) error {
	path := tarcodec.JoinName(parent.path, base)
	is, err := a.present(parent, base, path)
	if err != nil {
		return err
	}
	var d *dir
	if is == presentDir {
		if d, err = a.tree.lookup(path); err != nil {
			return err
		}
		err = errors.Join(a.contest(d.fd, path), a.redress(d, at))
	} else {
		if d, err = a.replaceByDir(parent, base, path, at.mode, is); err != nil {
			return err
		}
		err = d.dress(at, parent.acl)
	}
	defer d.unpin()
	if err != nil {
		return err
	}
	d.timed, d.times = true, at.times // set when it is closed
	key := a.tree.key(path)
	a.tree.made[key] = made{dir: true, fresh: d.fresh, covers: a.tree.made[key].covers, timed: true}
	return nil
}

// imply makes a directory that the tar has not mentioned so far. n is what the layers below have there, which is a directory,
// nil or unknown.
func (a *sink) imply(parent *dir, base, path string, n *backend.Node) (*dir, error) {
	is, err := a.present(parent, base, path)
	if err != nil {
		return nil, err
	}
	if err := a.tree.budget.imply(); err != nil {
		return nil, err
	}
	d, err := a.replaceByDir(parent, base, path, impliedMode, is)
	if err != nil {
		return nil, err
	}
	at := a.impliedAttrs()
	m := made{dir: true, fresh: true, covers: n == nil, implied: true, lower: n != nil}
	if n != nil && n != unknown {
		at = nodeAttrs(n)
		m.timed, d.timed, d.times = true, true, at.times
	}
	a.tree.made[a.tree.key(path)] = m
	err = d.dress(&at, parent.acl)
	if err == nil && n == unknown {
		err = d.mark(a.tree.view.implied())
	}
	if err != nil {
		d.unpin()
		return nil, err
	}
	return d, nil
}

// impliedAttrs are the properties of a directory that neither the tar nor a layer below describes.
func (a *sink) impliedAttrs() attrs {
	return attrs{mode: impliedMode, uid: a.rootUID, gid: a.rootGID}
}

// replaceByDir makes a new directory, pinned, in place of what is there. In the overlay dialects
// what was there hid the parents' directory, so the new one has to be opaque.
func (a *sink) replaceByDir(parent *dir, base, path string, mode uint32, is present) (*dir, error) {
	if is != absent {
		if err := a.remove(parent, base, path, is); err != nil {
			return nil, err
		}
	}
	if err := unix.Mkdirat(parent.fd, base, mode&0o777); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	a.tree.made[a.tree.key(path)] = made{dir: true, fresh: true, covers: is != absent || a.tree.view.opaque == ""}
	fd, err := a.tree.openDir(func() (int, error) { return openat.OpenAt(parent.fd, base, openat.DirFlags) })
	if err != nil {
		return nil, fmt.Errorf("open new directory: %w", err)
	}
	d, err := a.tree.add(path, fd)
	if err != nil {
		return nil, err
	}
	if is != absent && a.tree.view.opaque != "" {
		if err := d.mark(a.tree.view.opaque); err != nil {
			d.unpin()
			return nil, err
		}
	}
	return d, nil
}

// dress gives the directory its properties, times excepted. inherited says that it was just made and
// has its parent's ACLs.
func (d *dir) dress(at *attrs, inherited bool) error {
	if err := (node{File: openat.File{FD: d.fd, Dir: d.fd, Name: "."}, acl: inherited}).set(at); err != nil {
		return err
	}
	d.acl = d.acl && !inherited || at.has(tarcodec.ACLDefault)
	return nil
}

// redress gives a directory that was there before new properties: it keeps none of those that it had.
func (a *sink) redress(d *dir, at *attrs) error {
	if err := a.strip(d.fd, at); err != nil {
		return fmt.Errorf("directory %q: %w", d.path, err)
	}
	d.acl = false
	return d.dress(at, false)
}

// strip removes the attributes that a directory has and at does not, but for the opaque mark and the host's labels.
func (a *sink) strip(fd int, at *attrs) error {
	list, err := (openat.File{FD: fd}).ListXattrs()
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list attributes: %w", err)
	}
	for name := range strings.SplitSeq(list, "\x00") {
		waits := a.tree.view.opaque != "" && name == a.tree.view.implied()
		if name == "" || at.has(name) || !tarcodec.PackedXattr(name, a.o.Marks) && !waits {
			continue
		}
		if err := unix.Fremovexattr(fd, name); err != nil && !errors.Is(err, unix.ENODATA) {
			return fmt.Errorf("remove attribute %q: %w", name, err)
		}
	}
	return nil
}

// mark gives the directory a mark of overlayfs, or of ours.
func (d *dir) mark(name string) error {
	if err := unix.Fsetxattr(d.fd, name, []byte("y"), 0); err != nil {
		return fmt.Errorf("mark directory %q with %s: %w", d.path, name, err)
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

// present looks at a path that the tar is about to use.
func (a *sink) present(d *dir, base, path string) (present, error) {
	if err := tarcodec.CheckName(path); err != nil { // symlinks may have made it longer
		return absent, err
	}
	_, ours := a.tree.made[a.tree.key(path)]
	if d.fresh && !ours {
		return absent, nil
	}
	var st unix.Stat_t
	err := a.tree.stat(d, base, path, &st)
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
func (a *sink) vacate(d *dir, base, path string) error {
	is, err := a.present(d, base, path)
	if err != nil || is == absent {
		return err
	}
	return a.remove(d, base, path, is)
}

// errTooMany bounds what hostile tars make us remember.
func errTooMany(what string, limit int) error {
	return fmt.Errorf("more than %d %s: %w", limit, what, errdefs.ErrInvalidArgument)
}
