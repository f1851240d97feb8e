package layertar

import (
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strata/backend"
)

// Limits on hard links that come before their target, which are kept until the end of the tar.
const (
	maxPending      = 1 << 16
	maxPendingBytes = 8 << 20 // of names and attributes
)

// links are hard links whose target has not come yet.
type links struct {
	pending map[string]pending // by canonical path
	order   []string
	bytes   int
}

type pending struct {
	entry *entry
	attrs attrs
}

type late struct {
	path string
	pending
}

func (l *links) add(path string, p pending) error {
	l.bytes += len(path) + len(p.entry.name) + len(p.entry.link)
	for _, x := range p.attrs.xattrs {
		l.bytes += len(x.name) + len(x.value)
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

func (l *links) cancel(path string) {
	if len(l.pending) > 0 {
		delete(l.pending, path)
	}
}

func (l *links) cancelBelow(dir string) {
	for path := range l.pending {
		if within(path, dir) {
			delete(l.pending, path)
		}
	}
}

// makeAll makes the links that are left, each after the link it leads to.
func (l *links) makeAll(a *applier) error {
	for _, path := range l.order {
		var chain []late
		for p, ok := l.pending[path]; ok; p, ok = l.pending[path] {
			chain = append(chain, late{path, p})
			delete(l.pending, path)
			target, err := cleanName(p.entry.link)
			if err != nil {
				return err
			}
			path = target
		}
		for _, p := range slices.Backward(chain) {
			if err := a.makeLate(p); err != nil {
				return fmt.Errorf("unpack %q: %w", p.entry.name, err)
			}
		}
	}
	return nil
}

func (a *applier) makeLate(p late) error {
	parent, base := splitName(p.path)
	d, err := a.tree.find(parent)
	if err != nil {
		return err
	}
	defer d.unpin()
	return a.makeLink(p.entry, &p.attrs, d, base)
}

// link unpacks a hard link. If its target is not there yet it is made at the end of the tar.
func (a *applier) link(e *entry, at *attrs, d *dir, base string) error {
	target, err := cleanName(e.link)
	if err != nil {
		return fmt.Errorf("link to %q: %w", e.link, err)
	}
	if path := joinName(d.path, base); target != path {
		if err := a.vacate(d, base, path); err != nil {
			return err
		}
	}
	if a.o.Whiteouts != backend.WhiteoutsAUFS && classify(target) == linkTarget {
		return a.area.link(a, target, d, base)
	}
	err = a.makeLink(e, at, d, base)
	if errors.Is(err, unix.ENOENT) {
		path := joinName(d.path, base)
		a.tree.made[a.tree.key(path)] = made{}
		return a.links.add(path, pending{e, *at})
	}
	return err
}

// makeLink makes a hard link to a file that is there. It does not follow the target if that is a
// symlink, and it sets what the link's own header says.
func (a *applier) makeLink(e *entry, at *attrs, d *dir, base string) error {
	target, err := cleanName(e.link)
	if err != nil {
		return err
	}
	parent, name := splitName(target)
	from, err := a.tree.find(parent)
	if err != nil {
		return fmt.Errorf("link to %q: %w", e.link, err)
	}
	defer from.unpin()
	var st unix.Stat_t
	if err := a.tree.stat(from, name, &st); err != nil {
		return fmt.Errorf("link to %q: %w", e.link, err)
	}
	if from == d && name == base || st.Mode&unix.S_IFMT == unix.S_IFDIR || a.tree.made[a.tree.key(joinName(from.path, name))].gone {
		return fmt.Errorf("link to %q, which is itself, a directory or deleted: %w", e.link, errdefs.ErrInvalidArgument)
	}
	if err := unix.Linkat(from.fd, name, d.fd, base, 0); err != nil {
		return fmt.Errorf("link to %q: %w", e.link, err)
	}
	a.tree.made[a.tree.key(joinName(d.path, base))] = made{}
	n := node{fd: -1, dir: d.fd, name: base}
	if err := n.set(at); err != nil {
		return err
	}
	return n.setTimes(at)
}
