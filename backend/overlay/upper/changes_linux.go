package upper

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"golang.org/x/sys/unix"

	"strata/backend"
	"strata/backend/internal/dirfd"
	"strata/backend/internal/treediff"
)

// Layer is an upper directory.
type Layer struct {
	Dir string
	IDs *backend.IDMap // how it stores owners
}

// Changes lists what a layer changes in what the ones below it show together, the nearest of them first, each after the
// directory that it is in. It walks the upper directory, a second time where hard links ask for it (treediff.Linker), and
// looks up each of its names below: the cost depends on what was changed, not on the size of the image. Files that look
// the same are read. The layer may be in use; what vanishes meanwhile is left out. ErrNotImplemented for a directory or
// file whose content lies elsewhere.
func Changes(ctx context.Context, m Marks, top Layer, below []Layer) iter.Seq2[backend.Change, error] {
	return func(yield func(backend.Change, error) bool) {
		w := &walker{ctx: ctx, marks: m, ids: top.IDs}
		w.links.Partial = true // what the upper directory has not it has in common with the lower ones
		err := w.links.Walk(yield, func(yield func(backend.Change, error) bool) error {
			return w.roots(top, below, yield)
		})
		if err != nil && !errors.Is(err, treediff.ErrStopped) {
			yield(backend.Change{}, err)
		}
	}
}

// walker is one walk over an upper directory, and over those of the layers below beside it.
type walker struct {
	ctx   context.Context //nolint:containedctx // a walk lives as long as the call that got ctx
	marks Marks
	ids   *backend.IDMap
	links treediff.Linker

	upper  *dirfd.Walk
	lowers []lowerWalk // topmost first
	stack  []directory // from the root to where upper is
	here   []lower     // what a lookup of the parent's files sees there, topmost first
	out    *treediff.Output
}

// lowerWalk is a walk over the upper directory of a layer below. It is in the directory in place of the one where the upper walk is, or
// of the nearest one above that it has.
type lowerWalk struct {
	*dirfd.Walk
	ids *backend.IDMap
}

// lower is a directory of a layer below.
type lower struct {
	dirfd.Dir
	ids       *backend.IDMap
	whiteouts bool // regular files in it may be whiteouts
}

// directory is one that the upper tree has.
type directory struct {
	parts []part // of the lower walks, which of them are in its place
	// hidden says that nothing of the lowers shows through: the directory, or one it is in, was replaced.
	hidden bool
}

// lowerDirs is how many directories the walks over the layers below keep open together, besides their roots.
const lowerDirs = 128

// roots walks once. An error ends it and is not yielded.
func (w *walker) roots(top Layer, below []Layer, yield func(backend.Change, error) bool) error {
	upper, err := dirfd.Open(top.Dir)
	if err != nil {
		return err
	}
	defer upper.Close()
	w.upper, w.lowers, w.stack = dirfd.NewWalk(upper, dirfd.ByName), nil, nil
	defer w.upper.Close()
	w.out = treediff.NewOutput(w.upper, yield)
	root := directory{}
	for i, l := range below {
		d, err := dirfd.Open(l.Dir)
		if err != nil {
			return err
		}
		defer d.Close()
		walk := dirfd.NewWalk(d, dirfd.ByName)
		walk.Hold(lowerDirs / len(below))
		defer walk.Close()
		w.lowers = append(w.lowers, lowerWalk{walk, l.IDs})
		root.parts = append(root.parts, part{i, true})
	}
	w.stack = append(w.stack, root)
	return w.walk()
}

// walk lists what changed.
func (w *walker) walk() error {
	if err := w.arrive(); err != nil {
		return err
	}
	for {
		name, ok, err := w.next()
		switch {
		case err != nil:
			return err
		case ok:
			err = w.name(name)
		case w.upper.Depth() == 0:
			return nil
		default:
			err = w.leave()
		}
		if err != nil {
			return err
		}
	}
}

// arrive looks around where the walks have gone.
func (w *walker) arrive() error {
	if err := w.ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", w.upper.Dir(), err)
	}
	w.here = w.here[:0]
	for _, p := range w.stack[len(w.stack)-1].parts {
		l := w.lowers[p.index]
		w.here = append(w.here, lower{Dir: l.Dir(), ids: l.ids, whiteouts: p.whiteouts})
	}
	w.out.Moved()
	return nil
}

// leave goes back to the directory above. One that was moved away meanwhile counts as gone, with what it holds.
func (w *walker) leave() error {
	if err := w.upper.Leave(); err != nil && !errors.Is(err, dirfd.ErrMoved) {
		return err
	}
	for last := len(w.stack) - 1; last > w.upper.Depth(); last-- {
		for _, p := range w.stack[last].parts {
			if err := w.lowers[p.index].Leave(); err != nil {
				return err
			}
		}
		w.stack = w.stack[:last]
	}
	return w.arrive()
}

// next returns the next name to compare: where nothing shows through, one that the layers below have, whiteouts included, is one that may
// be gone.
func (w *walker) next() (name string, ok bool, err error) {
	top := w.stack[len(w.stack)-1]
	if !top.hidden {
		e, ok, err := w.upper.Next()
		return e.Name, ok, err
	}
	walks := []*dirfd.Walk{w.upper}
	for _, p := range top.parts {
		walks = append(walks, w.lowers[p.index].Walk)
	}
	return nextOf(walks)
}

// nextOf returns the smallest of the next names of several walks, and steps over it in all.
func nextOf(walks []*dirfd.Walk) (name string, ok bool, err error) {
	var same []*dirfd.Walk
	for _, w := range walks {
		e, has, err := w.Peek()
		switch {
		case err != nil:
			return "", false, err
		case !has:
		case !ok || e.Name < name:
			name, ok, same = e.Name, true, append(same[:0], w)
		case e.Name == name:
			same = append(same, w)
		}
	}
	for _, w := range same {
		if _, _, err := w.Next(); err != nil {
			return "", false, err
		}
	}
	return name, ok, nil
}

// name compares what the upper directory and the parent have under a name.
func (w *walker) name(name string) error {
	hidden := w.stack[len(w.stack)-1].hidden
	upper, err := lstat(w.upper.Dir(), name)
	if err != nil {
		return err
	}
	if upper == nil && !hidden { // vanished
		return nil
	}
	below, err := w.lookup(w.here, name)
	if err != nil {
		return err
	}
	gone := upper == nil
	if !gone {
		if gone, err = w.marks.isWhiteout(upper); err != nil {
			return err
		}
	}
	switch {
	case gone && below == nil:
		return nil
	case gone:
		return w.out.Name(name, backend.Deleted)
	case upper.IsDir():
		return w.subdirectory(upper, below)
	}
	if err := w.checkContent(upper); err != nil {
		return err
	}
	kind, differs, err := w.compare(upper, below)
	if !differs || err != nil {
		return err
	}
	return w.out.Name(name, kind)
}

// checkContent refuses a file whose content lies in another layer, so that it cannot be read from the upper directory.
func (w *walker) checkContent(f *file) error {
	if f.Kind() != unix.S_IFREG {
		return nil
	}
	return dirfd.IgnoreVanished(w.marks.refuseMetacopy(f))
}

// compare returns what to list a file or directory of the upper tree as, if it differs.
func (w *walker) compare(upper *file, below *found) (backend.ChangeKind, bool, error) {
	kind := backend.Added
	var top *treediff.File
	var ids *backend.IDMap
	upper.Marks = w.marks.Kind
	if below != nil {
		below.top.Marks = w.marks.Kind
		kind, top, ids = backend.Modified, &below.top.File, below.ids
	}
	differs, err := w.links.Differ(&upper.File, w.ids, top, ids)
	return kind, differs, err
}

// subdirectory goes into a directory of the upper tree, and lists it if it differs.
func (w *walker) subdirectory(upper *file, below *found) error {
	mark, err := w.marks.ofDirectory(upper)
	if err != nil {
		return dirfd.IgnoreVanished(err)
	}
	kind, differs, err := w.compare(upper, below)
	if err != nil {
		return err
	}
	if err := w.upper.Enter(upper.Name); err != nil {
		return dirfd.IgnoreVanished(err)
	}
	above := w.stack[len(w.stack)-1]
	sub := directory{hidden: above.hidden || mark == opaque}
	if below != nil {
		for _, p := range below.stack {
			p.index = above.parts[p.index].index
			if err := w.lowers[p.index].Enter(upper.Name); err != nil {
				return err
			}
			sub.parts = append(sub.parts, p)
		}
	}
	w.stack = append(w.stack, sub)
	if err := w.arrive(); err != nil || !differs {
		return err
	}
	return w.out.Directory(kind)
}

// found is what the parent has under a name.
type found struct {
	top   *file // the topmost file, whose attributes are the ones to be seen
	ids   *backend.IDMap
	stack []part // for a directory, where its content lies
}

// part is one of the directories that make up a merged one.
type part struct {
	index     int  // in the lowers that it was looked up in
	whiteouts bool // regular files in it may be whiteouts
}

// lookup finds a name as the kernel does: the topmost file hides what is below, directories are merged
// down to one that is opaque, and a whiteout ends the search. nil if the parent has no such name.
func (w *walker) lookup(lowers []lower, name string) (*found, error) {
	var f *found
	for i, l := range lowers {
		here, err := lstat(l.Dir, name)
		if err != nil {
			return nil, err
		}
		if here == nil {
			continue
		}
		white := here.isDevice0()
		if !white && l.whiteouts {
			white, err = w.marks.isWhiteout(here)
		}
		if white || err != nil {
			return f, err
		}
		if f == nil {
			f = &found{top: here, ids: l.ids}
		}
		if !here.IsDir() {
			return f, nil
		}
		mark, err := w.marks.ofDirectory(here)
		if err != nil {
			return nil, err
		}
		f.stack = append(f.stack, part{i, mark == whiteouts})
		if mark == opaque {
			return f, nil
		}
	}
	return f, nil
}
