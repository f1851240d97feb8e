package dirsink

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strata/backend"
	"strata/backend/internal/layertar/openat"
	"strata/backend/internal/layertar/tarcodec"
)

// Link implements backend.Sink. An empty file stands for a link whose target has not come yet, so that
// what comes between finds what it would find if the link were there.
func (a *sink) Link(e *backend.Entry, last bool) (at string, late bool, err error) {
	if last {
		return e.Path, false, a.makeLate(e)
	}
	a.tree.budget.entries++
	parent, base := tarcodec.SplitName(e.Path)
	d, err := a.tree.get(parent)
	if err != nil {
		return "", false, err
	}
	defer d.unpin()
	at = tarcodec.JoinName(d.path, base)
	if e.Target != at {
		if err := a.vacate(d, base, at); err != nil {
			return "", false, err
		}
	}
	err = a.makeLink(e, d, base)
	if !errors.Is(err, unix.ENOENT) {
		return at, false, err
	}
	if err := unix.Mknodat(d.fd, base, unix.S_IFREG, 0); err != nil {
		return "", false, fmt.Errorf("make file in place of link: %w", err)
	}
	a.tree.made[a.tree.key(at)] = made{link: true}
	return at, true, nil
}

// makeLate makes a link for which a file stands, unless something else has come there.
func (a *sink) makeLate(e *backend.Entry) error {
	if !a.tree.made[a.tree.key(e.Path)].link {
		return nil
	}
	parent, base := tarcodec.SplitName(e.Path)
	d, err := a.tree.get(parent)
	if err != nil {
		return err
	}
	defer d.unpin()
	if err := a.removeFile(d.fd, base, e.Path); err != nil {
		return err
	}
	err = a.makeLink(e, d, base)
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("%w: no file of the layer has this name: %w", err, errdefs.ErrInvalidArgument)
	}
	return err
}

// makeLink makes a hard link to a file that is there. It does not follow the target if that is a
// symlink, and it sets what the link's own header says.
func (a *sink) makeLink(e *backend.Entry, d *dir, base string) error {
	parent, name := tarcodec.SplitName(e.Target)
	found, err := a.tree.find(parent)
	if err == nil && found.dir == nil {
		err = unix.ENOENT
	}
	if err != nil {
		return fmt.Errorf("link to %q: %w", e.Target, err)
	}
	from := found.dir
	defer from.unpin()
	var st unix.Stat_t
	path := tarcodec.JoinName(from.path, name)
	if err := a.tree.stat(from, name, path, &st); err != nil {
		return fmt.Errorf("link to %q: %w", e.Target, err)
	}
	target := a.tree.made[a.tree.key(path)]
	if target.link {
		return fmt.Errorf("link to %q, a link that waits itself: %w", e.Target, unix.ENOENT)
	}
	if from == d && name == base || st.Mode&unix.S_IFMT == unix.S_IFDIR || target.gone {
		return fmt.Errorf("link to %q, which is itself, a directory or deleted: %w", e.Target, errdefs.ErrInvalidArgument)
	}
	if err := unix.Linkat(from.fd, name, d.fd, base, 0); err != nil {
		return fmt.Errorf("link to %q: %w", e.Target, err)
	}
	a.tree.made[a.tree.key(tarcodec.JoinName(d.path, base))] = made{}
	if e.Bare {
		return nil
	}
	at := a.newAttrs(e)
	n := node{File: openat.File{FD: -1, Dir: d.fd, Name: base}}
	if err := n.set(&at); err != nil {
		return err
	}
	return n.setTimes(&at)
}
