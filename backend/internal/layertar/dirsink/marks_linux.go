package dirsink

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"strata/backend/internal/layertar/openat"
	"strata/backend/internal/layertar/tarcodec"
)

// Marks act on what the layers below have, whatever order the tar has them in: what the same tar puts under a name stays, and
// nothing is made that is not needed to hide something.

// Opaque implements backend.Sink. Where no directory is there is nothing to hide, nor, as Docker reads
// it, behind a symlink.
func (a *sink) Opaque(path string) error {
	a.tree.budget.entries++
	at, ok, err := a.marked(path, false)
	if !ok || err != nil {
		return err
	}
	defer at.unpin()
	return a.cover(at)
}

// Hide implements backend.Sink.
func (a *sink) Hide(path string) error {
	a.tree.budget.entries++
	parent, base := tarcodec.SplitName(path)
	at, ok, err := a.marked(parent, true)
	if !ok || err != nil {
		return err
	}
	defer at.unpin()
	return a.hide(at, base)
}

// marked returns the directory that a mark is in, pinned, if there is one. follow says that it may be behind a symlink.
func (a *sink) marked(path string, follow bool) (spot, bool, error) {
	if !follow && path != "." {
		parent, base := tarcodec.SplitName(path)
		at, ok, err := a.marked(parent, true)
		if !ok || err != nil {
			return spot{}, false, err
		}
		defer at.unpin()
		path = tarcodec.JoinName(at.path, base)
		f, err := a.tree.look(&at, base, path)
		if err != nil || f.is != isDir {
			return spot{}, false, err
		}
	}
	at, err := a.tree.find(path)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return spot{}, false, nil
	}
	return at, err == nil, err
}

// hide hides one name.
func (a *sink) hide(at spot, base string) error {
	if at.dir != nil {
		done, err := a.clearName(at.dir, base, tarcodec.JoinName(at.path, base))
		if done || err != nil {
			return err
		}
	}
	return a.conceal(at, base)
}

// conceal hides what the layers below have under a name where the layer itself has nothing.
func (a *sink) conceal(at spot, base string) error {
	n, err := a.tree.below(&at, base)
	if n == nil || err != nil {
		return err
	}
	d, err := a.tree.get(at.path)
	if err != nil {
		return err
	}
	defer d.unpin()
	if err := unix.Mknodat(d.fd, base, unix.S_IFCHR, 0); err != nil {
		return fmt.Errorf("make whiteout: %w", err)
	}
	a.tree.made[a.tree.key(tarcodec.JoinName(at.path, base))] = made{gone: true}
	return nil
}

// clearName deletes what the layer itself has under a name and this tar has not put there. It reports whether the name is
// hidden by that: something of ours, or a whiteout, stands there.
func (a *sink) clearName(d *dir, base, path string) (done bool, err error) {
	m, ours := a.tree.made[a.tree.key(path)]
	if ours && (m.gone || m.stays()) || d.fresh && !ours {
		return ours, nil
	}
	var st unix.Stat_t
	if err := a.tree.stat(d, base, path, &st); err != nil {
		if errors.Is(err, unix.ENOENT) {
			err = nil
		}
		return false, err
	}
	if a.tree.view.whiteout(&st) {
		return true, nil
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return false, a.removeFile(d.fd, base, path)
	}
	if err := a.writers.wait(); err != nil {
		return false, err
	}
	a.tree.last.dir = nil
	below, err := a.tree.below(&spot{path: d.path, dir: d}, base) // before it is noted that nothing shows
	if err != nil {
		return false, err
	}
	gone, err := a.removeTree(d, base, false)
	if gone || err != nil || below == nil {
		return !gone, err
	}
	return true, a.markOpaque(path)
}

func (a *sink) markOpaque(path string) error {
	d, err := a.tree.lookup(path)
	if err != nil {
		return err
	}
	defer d.unpin()
	return d.mark(a.tree.view.opaque)
}

// cover hides all that the layers below have in a directory.
func (a *sink) cover(at spot) error {
	covered, err := a.tree.covers(&at)
	if covered || err != nil {
		return err
	}
	d, err := a.tree.get(at.path)
	if err != nil {
		return err
	}
	defer d.unpin()
	if err := a.contest(d.fd, d.path); err != nil {
		return err
	}
	v := &a.tree.view
	oneByOne := at.path == "." && v.opaque != "" && v.known() // overlayfs knows no opaque root
	if oneByOne {
		err = a.hideAll(d)
	} else {
		err = a.prune(d)
	}
	if err != nil {
		return err
	}
	key := a.tree.key(at.path)
	m, ours := a.tree.made[key]
	if !ours {
		m = made{dir: true, timed: true, implied: true, lower: true}
	}
	m.fresh, m.covers, d.fresh = true, true, true
	a.tree.made[key] = m
	if oneByOne || v.opaque == "" {
		return nil
	}
	return d.mark(v.opaque)
}

// hideAll hides each name in the root.
func (a *sink) hideAll(root *dir) error {
	b, err := a.tree.view.below()
	if err != nil {
		return err
	}
	names, err := b.Names(root.path)
	if err != nil {
		return err
	}
	own, err := listNames(root.fd)
	if err != nil {
		return fmt.Errorf("list %q: %w", root.path, err)
	}
	for _, name := range append(names, own...) {
		if err := a.hide(spot{path: root.path, dir: root}, name); err != nil {
			return err
		}
	}
	return nil
}

func listNames(fd int) (names []string, err error) {
	err = eachEntry(fd, func(e os.DirEntry) error {
		names = append(names, e.Name())
		return nil
	})
	return names, err
}

// eachEntry lists a directory. What has been seen may be removed meanwhile.
func eachEntry(fd int, do func(os.DirEntry) error) (err error) {
	again, err := openat.OpenAt(fd, ".", openat.DirFlags) // with an offset of its own
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(again), ".")
	defer func() { err = errors.Join(err, f.Close()) }()
	for {
		list, err := f.ReadDir(1024)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, e := range list {
			if err := do(e); err != nil {
				return err
			}
		}
	}
}
