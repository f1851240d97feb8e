package tree

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"strata/backend/internal/dirfd"
)

// removers is how many goroutines work on one tree. Directories are locked one by one, the journal
// is shared, so a second one pays and more do not.
const removers = 2

// RemoveAll removes dir, whatever it is, and all below it; nil if there is nothing. It clears immutable
// and append-only flags that are in the way. At the first error it stops and leaves the rest. A mount
// point is an ErrFailedPrecondition that names it, and what is mounted there is not touched. It may be
// repeated after an error or a crash.
func RemoveAll(ctx context.Context, dir string) error {
	parent, err := dirfd.Open(filepath.Dir(dir) + "/.") // which may be a symbolic link
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove tree: %w", err)
	}
	defer parent.Close()
	r := remover{slots: make(chan struct{}, removers-1)}
	if err := r.remove(ctx, parent, dirfd.Entry{Name: filepath.Base(dir)}); err != nil {
		return fmt.Errorf("remove tree: %w", err)
	}
	return nil
}

// remover removes one tree.
type remover struct {
	slots chan struct{} // one element for each goroutine besides the caller's
}

// remove removes one name in a directory.
func (r *remover) remove(ctx context.Context, parent dirfd.Dir, e dirfd.Entry) error {
	if e.Type != unix.DT_DIR {
		err := unlink(parent, e, 0)
		if !errors.Is(err, unix.EISDIR) {
			return err
		}
	}
	d, err := parent.Open(e.Name)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	s := sweep{remover: r, Walk: dirfd.NewWalk(d, dirfd.ByInode)}
	defer s.Close()
	for {
		if err := s.empty(ctx); err != nil {
			return err
		}
		err := unlink(parent, e, unix.AT_REMOVEDIR)
		if !errors.Is(err, unix.ENOTEMPTY) {
			return err
		}
		s.Rewind() // something is new, or getdents lost its place when entries went away
	}
}

// sweep is one goroutine's way through a directory.
type sweep struct {
	*remover
	*dirfd.Walk
	helpers []*helper // the deepest last
}

// helper is what other goroutines do in a directory on the way.
type helper struct {
	depth int
	errgroup.Group
}

// empty removes all that the directory holds.
func (s *sweep) empty(ctx context.Context) error {
	err := s.each(ctx)
	if other := s.await(0); err == nil {
		err = other
	}
	return err
}

func (s *sweep) each(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("remove %s: %w", s.Dir(), err)
		}
		e, ok, err := s.Next()
		if err != nil {
			return err
		}
		if ok {
			if err := s.entry(ctx, e); err != nil {
				return err
			}
			continue
		}
		if err := s.await(s.Depth()); err != nil || s.Depth() == 0 {
			return err
		}
		if err := s.finish(); err != nil {
			return err
		}
	}
}

// entry removes a name, or begins to if it is a directory.
func (s *sweep) entry(ctx context.Context, e dirfd.Entry) error {
	if e.Type != unix.DT_DIR {
		err := unlink(s.Dir(), e, 0)
		if !errors.Is(err, unix.EISDIR) {
			return err
		}
	}
	if begun, err := s.inBackground(ctx, e); begun || err != nil {
		return err
	}
	return s.enter(e.Name)
}

func (s *sweep) enter(name string) error {
	err := s.Enter(name)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// inBackground leaves a directory to another goroutine if one is free.
func (s *sweep) inBackground(ctx context.Context, e dirfd.Entry) (begun bool, err error) {
	select {
	case s.slots <- struct{}{}:
	default:
		return false, nil
	}
	parent, err := s.Dir().Open(".") // the walk closes its own
	if err != nil {
		<-s.slots
		return false, err
	}
	if n := len(s.helpers); n == 0 || s.helpers[n-1].depth < s.Depth() {
		s.helpers = append(s.helpers, &helper{depth: s.Depth()})
	}
	s.helpers[len(s.helpers)-1].Go(func() error {
		defer func() { <-s.slots }()
		defer parent.Close()
		return s.remove(ctx, parent, e)
	})
	return true, nil
}

// await waits for what others do at a depth and deeper.
func (s *sweep) await(depth int) error {
	var first error
	for n := len(s.helpers); n > 0 && s.helpers[n-1].depth >= depth; n = len(s.helpers) {
		if err := s.helpers[n-1].Wait(); first == nil {
			first = err
		}
		s.helpers = s.helpers[:n-1]
	}
	return first
}

// finish removes the directory where the walk is, which is empty, and goes on in the one above. If that is elsewhere now the directory
// is not ours to remove any more, or turns up again.
func (s *sweep) finish() error {
	name := s.Name()
	err := s.Leave()
	if errors.Is(err, dirfd.ErrMoved) {
		return s.await(s.Depth() + 1)
	}
	if err != nil {
		return err
	}
	err = unlink(s.Dir(), dirfd.Entry{Name: name, Type: unix.DT_DIR}, unix.AT_REMOVEDIR)
	if errors.Is(err, unix.ENOTEMPTY) {
		return s.enter(name) // something is new, or getdents lost its place when entries went away
	}
	return err
}

// unlink removes one name, after clearing flags that forbid it. EISDIR and ENOTEMPTY come back as they are.
func unlink(d dirfd.Dir, e dirfd.Entry, flags int) error {
	err := unix.Unlinkat(d.FD, e.Name, flags)
	if errors.Is(err, unix.EPERM) && dirfd.Unprotect(d, e) {
		err = unix.Unlinkat(d.FD, e.Name, flags)
	}
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.EISDIR), errors.Is(err, unix.ENOTEMPTY):
		return err
	case errors.Is(err, unix.EBUSY):
		return dirfd.MountPointError(d.Join(e.Name))
	}
	return &os.PathError{Op: "remove", Path: d.Join(e.Name), Err: err}
}
