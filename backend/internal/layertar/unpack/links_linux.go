package unpack

import (
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strata/backend"
	"strata/backend/internal/layertar/openat"
	"strata/backend/internal/layertar/tarcodec"
)

// Limits on hard links that come before their target, which are kept until the end of the tar.
const (
	maxPending      = 1 << 16
	maxPendingBytes = 8 << 20 // of names and attributes
)

// links are hard links whose target has not come yet. An empty file stands for each of them, so that what comes between finds
// what it would find if the link were there.
type links struct {
	pending map[string]pending // by canonical path
	order   []string
	bytes   int
}

type pending struct {
	entry *tarcodec.Entry
	attrs attrs
}

type late struct {
	path string
	pending
}

func (l *links) add(path string, p pending) error {
	l.bytes += len(path) + len(p.entry.Name) + len(p.entry.Link)
	for _, x := range p.attrs.xattrs {
		l.bytes += len(x.Name) + len(x.Value)
	}
	if len(l.order) == maxPending || l.bytes > maxPendingBytes {
		return errTooMany("hard links before their targets", len(l.order))
	}
	if l.pending == nil {
		l.pending = map[string]pending{}
	}
	l.pending[path] = p
	l.order = append(l.order, path)
	return nil
}

// makeAll makes the links that are left, each after the link it leads to.
func (l *links) makeAll(a *applier) error {
	for _, path := range l.order {
		var chain []late
		for p, ok := l.pending[path]; ok; p, ok = l.pending[path] {
			chain = append(chain, late{path, p})
			delete(l.pending, path)
			path = tarcodec.CleanName(p.entry.Link)
		}
		for _, p := range slices.Backward(chain) {
			if err := a.makeLate(p); err != nil {
				return fmt.Errorf("unpack %q: %w", p.entry.Name, err)
			}
		}
	}
	return nil
}

func (a *applier) makeLate(p late) error {
	parent, base := tarcodec.SplitName(p.path)
	d, err := a.tree.get(parent)
	if err != nil {
		return err
	}
	defer d.unpin()
	if err := a.removeFile(d.fd, base, p.path); err != nil {
		return err
	}
	err = a.makeLink(p.entry, &p.attrs, d, base)
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("%w: the layer itself has to have the file: %w", err, errdefs.ErrInvalidArgument)
	}
	return err
}

// link unpacks a hard link. If its target is not there yet it is made at the end of the tar.
func (a *applier) link(e *tarcodec.Entry, at *attrs, d *dir, base string) error {
	target := tarcodec.CleanName(e.Link)
	if path := tarcodec.JoinName(d.path, base); target != path {
		if err := a.vacate(d, base, path); err != nil {
			return err
		}
	}
	if a.o.Whiteouts != backend.WhiteoutsAUFS && tarcodec.Classify(target) == tarcodec.LinkTarget {
		return a.area.link(a, target, d, base)
	}
	err := a.makeLink(e, at, d, base)
	if errors.Is(err, unix.ENOENT) {
		path := tarcodec.JoinName(d.path, base)
		if err := unix.Mknodat(d.fd, base, unix.S_IFREG, 0); err != nil {
			return fmt.Errorf("make file in place of link: %w", err)
		}
		a.tree.made[a.tree.key(path)] = made{link: true}
		return a.links.add(path, pending{e, *at})
	}
	return err
}

// makeLink makes a hard link to a file that is there. It does not follow the target if that is a
// symlink, and it sets what the link's own header says.
func (a *applier) makeLink(e *tarcodec.Entry, at *attrs, d *dir, base string) error {
	parent, name := tarcodec.SplitName(tarcodec.CleanName(e.Link))
	found, err := a.tree.find(parent)
	if err == nil && found.dir == nil {
		err = unix.ENOENT
	}
	if err != nil {
		return fmt.Errorf("link to %q: %w", e.Link, err)
	}
	from := found.dir
	defer from.unpin()
	var st unix.Stat_t
	path := tarcodec.JoinName(from.path, name)
	if err := a.tree.stat(from, name, path, &st); err != nil {
		return fmt.Errorf("link to %q: %w", e.Link, err)
	}
	target := a.tree.made[a.tree.key(path)]
	if target.link {
		return fmt.Errorf("link to %q, a link that waits itself: %w", e.Link, unix.ENOENT)
	}
	if from == d && name == base || st.Mode&unix.S_IFMT == unix.S_IFDIR || target.gone {
		return fmt.Errorf("link to %q, which is itself, a directory or deleted: %w", e.Link, errdefs.ErrInvalidArgument)
	}
	if err := unix.Linkat(from.fd, name, d.fd, base, 0); err != nil {
		return fmt.Errorf("link to %q: %w", e.Link, err)
	}
	a.tree.made[a.tree.key(tarcodec.JoinName(d.path, base))] = made{}
	n := node{File: openat.File{FD: -1, Dir: d.fd, Name: base}}
	if err := n.set(at); err != nil {
		return err
	}
	return n.setTimes(at)
}
