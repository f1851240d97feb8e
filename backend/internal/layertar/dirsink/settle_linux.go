package dirsink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"strata/backend"
	"strata/backend/internal/dirfd"
	"strata/backend/internal/layertar/openat"
)

// Settle gives a directory that Apply has filled while Options.Below was not known the form that it would have got
// otherwise: directories that the tar implied look as they do below, or are moved to where a symlink leads that is there, and
// what hides nothing goes. o.Below, which is known now, is asked about names in question only. Of o, Whiteouts and IDMap
// count as well.
//
// It changes names and attributes, no file's content. After a crash or an error it may be called again with the same layers
// below. ENOTDIR, ELOOP and errdefs.ErrInvalidArgument say that the tar does not fit what is below.
func Settle(ctx context.Context, dir string, o Options) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	o.Workers = 1
	a := &sink{dir: dir, o: o, host: noTar{cancel}}
	if err := a.setUp(ctx); err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, a.Close()); err != nil {
			err = fmt.Errorf("settle layer in %s: %w", dir, err)
		}
	}()
	s := &settler{sink: a, ctx: ctx}
	if s.below, err = a.tree.view.below(); err != nil {
		return err
	}
	return s.run()
}

// noTar is the host of a sink that takes no entries.
type noTar struct{ cancel context.CancelCauseFunc }

func (n noTar) Fail(err error)               { n.cancel(err) }
func (noTar) Save(uint64, io.ReaderAt) error { return nil }
func (noTar) LeaveOut(string, string, error) {}

// settler is one call of Settle.
type settler struct {
	*sink
	ctx   context.Context //nolint:containedctx // it lives as long as the call that got ctx
	below backend.Below
}

// ground is a directory of the layer, with what the layers below have in its place as soon as that is asked for.
type ground struct {
	up     *ground // nil for the root
	name   string
	covers bool // nothing below shows in it
	asked  bool
	node   *backend.Node
}

// path is put together when it is asked for: all of those in a deep tree would fill the memory.
func (g *ground) path() string {
	if g.up == nil {
		return "."
	}
	size := -1
	for at := g; at.up != nil; at = at.up {
		size += 1 + len(at.name)
	}
	b := bytes.Repeat([]byte("/"), size)
	for end := size; g.up != nil; g = g.up {
		end -= copy(b[end-len(g.name):], g.name) + 1
	}
	return string(b)
}

// groundAt returns the ground of a directory whose parents cover nothing.
func groundAt(path string) *ground {
	g := &ground{}
	if path == "." {
		return g
	}
	for part := range strings.SplitSeq(path, "/") {
		g = &ground{up: g, name: part}
	}
	return g
}

// shows tells whether the layers below have a directory that shows in this one.
func (s *settler) shows(g *ground) (bool, error) {
	if g.covers || g.up == nil {
		return !g.covers, nil
	}
	n, err := s.lookup(g)
	return n != nil && kindOf(n.Mode) == isDir, err
}

// lookup returns what the layers below have in place of g.
func (s *settler) lookup(g *ground) (*backend.Node, error) {
	if g.asked {
		return g.node, nil
	}
	shows, err := s.shows(g.up)
	if err == nil && shows {
		g.node, err = s.below.Lookup(g.path())
	}
	g.asked = err == nil
	return g.node, err
}

func (s *settler) run() error {
	if err := s.decide(); err != nil {
		return err
	}
	root := &ground{}
	var err error
	if root.covers, err = hasMark(s.tree.root.fd, s.tree.view.opaque); err != nil {
		return err
	}
	if !root.covers {
		if err := s.move(root); err != nil {
			return err
		}
	}
	if err := s.tree.finish(); err != nil {
		return err
	}
	if err := s.visit(root); err != nil || !root.covers {
		return err
	}
	names, err := s.below.Names(".")
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := s.hideInRoot(name); err != nil {
			return err
		}
	}
	return dropMark(s.tree.root.fd, s.tree.view.opaque)
}

// hideInRoot hides a name that the layers below have in the root.
func (s *settler) hideInRoot(name string) error {
	root := s.tree.root.fd
	err := unix.Mknodat(root, name, unix.S_IFCHR, 0)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	fd, err := openat.OpenDirAt(root, name)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	if err != nil {
		return err
	}
	defer openat.CloseQuietly(fd, -1)
	return (&dir{path: name, fd: fd}).mark(s.tree.view.opaque)
}

// settling is a walk that settles what directories hold. Where that makes names go, the times of the directory stay.
type settling struct {
	*settler
	walk  *dirfd.Walk
	stack []settled // the directories from the root to where the walk is
}

// settled is a directory of such a walk.
type settled struct {
	*ground
	waits   bool
	changed bool // names in it are gone
	times   [2]unix.Timespec
}

// visit settles all that the root holds.
func (s *settler) visit(root *ground) error {
	v := &settling{settler: s, walk: dirfd.NewWalk(s.rootDir(), dirfd.ByName)}
	defer v.walk.Close()
	if err := v.push(settled{ground: root}); err != nil {
		return err
	}
	for {
		e, ok, err := v.walk.Next()
		switch {
		case err != nil:
			return err
		case ok:
			err = v.entry(e)
		case v.walk.Depth() == 0:
			return v.restore()
		default:
			err = v.leave()
		}
		if err != nil {
			return err
		}
	}
}

// rootDir is the layer's root for a walk.
func (s *settler) rootDir() dirfd.Dir { return dirfd.Dir{FD: s.tree.root.fd, Path: s.tree.root.path} }

// push takes the directory where the walk is onto the stack.
func (v *settling) push(d settled) error {
	if err := context.Cause(v.ctx); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(v.walk.Dir().FD, &st); err != nil {
		return err
	}
	d.times = [2]unix.Timespec{st.Atim, st.Mtim}
	v.stack = append(v.stack, d)
	return nil
}

// entry settles a whiteout, or goes into a directory.
func (v *settling) entry(e dirfd.Entry) (err error) {
	top := &v.stack[len(v.stack)-1]
	is, err := isDirectory(v.walk.Dir(), e)
	if err != nil {
		return err
	}
	if !is {
		if e.Type != unix.DT_CHR && e.Type != unix.DT_UNKNOWN {
			return nil
		}
		gone, err := v.whiteout(v.walk.Dir().FD, &ground{up: top.ground, name: e.Name})
		top.changed = top.changed || gone
		return err
	}
	if err := v.walk.Enter(e.Name); err != nil {
		return err
	}
	d := settled{ground: &ground{up: top.ground, name: e.Name}}
	fd := v.walk.Dir().FD
	if d.covers, err = hasMark(fd, v.tree.view.opaque); err != nil {
		return err
	}
	if d.waits, err = hasMark(fd, v.tree.view.implied()); err != nil {
		return err
	}
	return v.push(d)
}

// restore gives the directory where the walk is its times back.
func (v *settling) restore() error {
	top := &v.stack[len(v.stack)-1]
	if !top.changed {
		return nil
	}
	return unix.UtimesNanoAt(v.walk.Dir().FD, ".", top.times[:], 0)
}

// leave settles the directory where the walk is, and goes back to the one above.
func (v *settling) leave() error {
	if err := v.restore(); err != nil {
		return err
	}
	last := v.stack[len(v.stack)-1]
	empty, err := v.directory(v.walk.Dir().FD, last.ground, last.waits)
	if err != nil {
		return err
	}
	v.stack = v.stack[:len(v.stack)-1]
	if err := v.walk.Leave(); err != nil || !empty {
		return err
	}
	v.stack[len(v.stack)-1].changed = true
	return unix.Unlinkat(v.walk.Dir().FD, last.name, unix.AT_REMOVEDIR)
}

// directory settles a directory whose content is, and reports whether it is to go, which is then empty.
func (s *settler) directory(fd int, g *ground, waits bool) (empty bool, err error) {
	if !g.covers && !waits {
		return false, nil
	}
	n, err := s.lookup(g)
	if err != nil {
		return false, err
	}
	if n == nil || kindOf(n.Mode) != isDir {
		return s.alone(fd, n, g, waits)
	}
	if !waits {
		return false, nil
	}
	if !g.covers {
		if empty, err := isEmpty(fd); empty || err != nil {
			return empty, err
		}
	}
	attrs := nodeAttrs(n)
	if err := s.dressAs(fd, &attrs); err != nil {
		return false, fmt.Errorf("directory %q: %w", g.path(), err)
	}
	return false, nil
}

// whiteout removes a whiteout that hides nothing.
func (s *settler) whiteout(at int, g *ground) (gone bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstatat(at, g.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || !s.tree.view.whiteout(&st) {
		return false, err
	}
	n, err := s.lookup(g)
	if n != nil || err != nil {
		return false, err
	}
	return true, unix.Unlinkat(at, g.name, 0)
}

// alone settles a directory in whose place the layers below have none: n or nothing.
func (s *settler) alone(fd int, n *backend.Node, g *ground, waits bool) (empty bool, err error) {
	if waits {
		if empty, err := isEmpty(fd); empty || err != nil {
			return empty, err
		}
		if n != nil {
			return false, fmt.Errorf("open directory %q: %w", g.path(), unix.ENOTDIR)
		}
	}
	return false, errors.Join(dropMark(fd, s.tree.view.opaque), dropMark(fd, s.tree.view.implied()))
}

// isEmpty tells that a directory holds nothing.
func isEmpty(fd int) (bool, error) {
	err := eachEntry(fd, func(os.DirEntry) error { return errNotEmpty })
	if errors.Is(err, errNotEmpty) {
		return false, nil
	}
	return err == nil, err
}

var errNotEmpty = errors.New("not empty")

func dropMark(fd int, name string) error {
	err := unix.Fremovexattr(fd, name)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	return err
}

// dressAs gives a directory that waited its properties.
func (s *settler) dressAs(fd int, at *attrs) error {
	n := node{File: openat.File{FD: fd, Dir: fd, Name: "."}}
	if err := n.set(at); err != nil {
		return err
	}
	if err := dropMark(fd, s.tree.view.implied()); err != nil {
		return err
	}
	return n.setTimes(at)
}
