package dirsink

import (
	"context"
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"strata/backend/internal/dirfd"
)

// moving is a walk that looks for directories that were implied where the layers below turn out to have symlinks, and moves what they hold
// to where those lead.
type moving struct {
	*settler
	walk  *dirfd.Walk
	stack []*ground // the directories from where the walk began to where it is
}

// move goes through all that the root holds.
func (s *settler) move(root *ground) error {
	m := s.newMoving(s.rootDir(), root)
	defer m.walk.Close()
	return m.through(0)
}

// moveIn goes through directories that have come into another one, which leads there from the root.
func (s *settler) moveIn(to *dir, names []string) error {
	m := s.newMoving(dirfd.Dir{FD: to.fd, Path: to.path}, groundAt(to.path))
	defer m.walk.Close()
	for _, name := range names {
		err := m.enter(name)
		if err == nil && m.walk.Depth() > 0 {
			err = errors.Join(m.through(1), m.leave())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *settler) newMoving(root dirfd.Dir, g *ground) *moving {
	return &moving{settler: s, walk: dirfd.NewWalk(root, dirfd.ByName), stack: []*ground{g}}
}

// through goes on to the end of a directory so far from where the walk began.
func (m *moving) through(depth int) error {
	for {
		e, ok, err := m.walk.Next()
		switch {
		case err != nil:
			return err
		case ok:
			err = m.entry(e)
		case m.walk.Depth() == depth:
			return nil
		default:
			err = m.leave()
		}
		if err != nil {
			return err
		}
	}
}

func (m *moving) entry(e dirfd.Entry) error {
	is, err := isDirectory(m.walk.Dir(), e)
	if !is || err != nil {
		return err
	}
	return m.enter(e.Name)
}

// enter goes into a directory, unless nothing below shows in it or it has been moved out.
func (m *moving) enter(name string) error {
	if err := context.Cause(m.ctx); err != nil {
		return err
	}
	if err := m.walk.Enter(name); err != nil {
		return err
	}
	g := &ground{up: m.stack[len(m.stack)-1], name: name}
	m.stack = append(m.stack, g)
	target, err := m.judge(g)
	switch {
	case err != nil:
		return err
	case target != "":
		return m.moveOut(g, target)
	case g.covers:
		return m.leave()
	}
	return nil
}

func (m *moving) leave() error {
	m.stack = m.stack[:len(m.stack)-1]
	return m.walk.Leave()
}

// judge returns where the symlink leads that the layers below have in place of the directory where the walk is, "" if they have none,
// and notes whether it is covered.
func (m *moving) judge(g *ground) (target string, err error) {
	fd := m.walk.Dir().FD
	waits, err := hasMark(fd, m.tree.view.implied())
	if err != nil {
		return "", err
	}
	if !waits {
		g.covers, err = hasMark(fd, m.tree.view.opaque)
		return "", err
	}
	n, err := m.lookup(g)
	if err != nil || n == nil || kindOf(n.Mode) != isLink {
		return "", err
	}
	if strings.HasPrefix(n.Target, "/") {
		return n.Target, nil
	}
	return g.up.path() + "/" + n.Target, nil
}

// moveOut moves what the directory where the walk is holds to where a path leads, if that is somewhere, and leaves it.
func (m *moving) moveOut(g *ground, target string) error {
	m.tree.budget.entries++
	m.tree.view.clear = nil // directories with marks come elsewhere
	to, err := m.destination(m.walk.Dir(), g, target)
	if to != nil {
		defer to.unpin()
	}
	if err != nil {
		return err
	}
	if to == nil {
		return m.leave()
	}
	moved, err := m.moveAll(m.walk.Dir(), to, g.path())
	if err != nil {
		return err
	}
	if err := m.leave(); err != nil {
		return err
	}
	err = unix.Unlinkat(m.walk.Dir().FD, g.name, unix.AT_REMOVEDIR)
	if errors.Is(err, unix.ENOTEMPTY) { // it holds what has been moved: the symlink leads out of it and back
		return errTwice(g.path())
	}
	if err != nil {
		return err
	}
	return m.moveIn(to, moved)
}

// destination returns the directory, pinned, that a path leads to, or nil if there is none and nothing that needs one.
func (s *settler) destination(from dirfd.Dir, g *ground, path string) (*dir, error) {
	content, err := s.hasContent(from)
	if err != nil {
		return nil, err
	}
	if !content {
		at, err := s.tree.walk(path, false)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			return nil, nil //nolint:nilnil // it is no error, and there is no directory
		}
		if err != nil {
			return nil, err
		}
		at.unpin()
	}
	at, err := s.tree.walk(path, true)
	if err != nil {
		return nil, err
	}
	want, _, err := s.trace(".", path, true)
	if err == nil && at.path != want { // through a symlink of the layer's own
		err = errTwice(g.path())
	}
	return at.dir, err
}

// hasContent tells that a directory has more in it than marks.
func (s *settler) hasContent(root dirfd.Dir) (bool, error) {
	w := dirfd.NewWalk(root, dirfd.AsListed)
	defer w.Close()
	for {
		e, ok, err := w.Next()
		switch {
		case err != nil:
			return false, err
		case ok:
			if content, err := s.isContent(w, e.Name); content || err != nil {
				return content, err
			}
		case w.Depth() == 0:
			return false, nil
		default:
			if err := w.Leave(); err != nil {
				return false, err
			}
		}
	}
}

// isContent tells that a name is more than a mark. It goes into a directory that may hold more.
func (s *settler) isContent(w *dirfd.Walk, name string) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(w.Dir().FD, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, err
	}
	if s.tree.view.whiteout(&st) {
		return false, nil
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return true, nil
	}
	if err := w.Enter(name); err != nil {
		return false, err
	}
	waits, err := hasMark(w.Dir().FD, s.tree.view.implied())
	return !waits, err
}
