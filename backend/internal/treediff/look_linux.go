package treediff

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"strata/backend/internal/dirfd"
)

// lookAgain finds the names that the walk before passed over although their files are listed under other names: files
// in a directory that was moved do not change themselves.
func (c *comparison) lookAgain(upper string) error {
	unseen := c.links.unseen()
	if c.Unchanged == nil || len(unseen) == 0 {
		return nil
	}
	c.look = map[dirfd.Inode]bool{}
	d, err := dirfd.Open(upper)
	if err != nil {
		return err
	}
	defer d.Close()
	s := search{comparison: c, files: unseen, walk: dirfd.NewWalk(d, dirfd.AsListed)}
	defer s.walk.Close()
	return s.run()
}

// search looks for files. It adds their names to those that are not passed over, with the directories above them.
type search struct {
	*comparison
	files map[dirfd.Inode]bool
	walk  *dirfd.Walk
	stack []searched
}

// searched is a directory of a search.
type searched struct {
	name  dirfd.Inode // its own
	dev   uint64      // of what is in it
	found bool        // something is
}

func (s *search) run() error {
	if err := s.push(dirfd.Inode{}); err != nil {
		return err
	}
	for {
		e, ok, err := s.walk.Next()
		switch {
		case err != nil:
			return err
		case ok:
			err = s.entry(e)
		case s.walk.Depth() == 0:
			return nil
		default:
			err = s.leave()
		}
		if err != nil {
			return err
		}
	}
}

// push takes the directory where the walk is onto the stack.
func (s *search) push(name dirfd.Inode) error {
	d := s.walk.Dir()
	if err := s.ctx.Err(); err != nil {
		return fmt.Errorf("search %s: %w", d, err)
	}
	dev, err := device(d)
	s.stack = append(s.stack, searched{name: name, dev: dev})
	return err
}

func (s *search) entry(e dirfd.Entry) error {
	top := &s.stack[len(s.stack)-1]
	name := dirfd.Inode{Dev: top.dev, Ino: e.Ino}
	if e.Type != unix.DT_DIR {
		if s.files[name] {
			s.look[name], top.found = true, true
		}
		return nil
	}
	if err := s.walk.Enter(e.Name); err != nil {
		return dirfd.IgnoreVanished(err)
	}
	return s.push(name)
}

// leave goes back to the directory above, and notes those that something was found in.
func (s *search) leave() error {
	if err := s.walk.Leave(); err != nil && !errors.Is(err, dirfd.ErrMoved) {
		return err
	}
	for last := len(s.stack) - 1; last > s.walk.Depth(); last-- {
		if d := s.stack[last]; d.found {
			s.look[d.name], s.stack[last-1].found = true, true
		}
		s.stack = s.stack[:last]
	}
	return nil
}
