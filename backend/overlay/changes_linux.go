package overlay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"strata/backend"
	"strata/backend/internal/layertar"
	"strata/backend/internal/tree"
	"strata/backend/internal/treediff"
)

// Changes walks the upper directory and looks up each of its names below: the cost depends on what was
// changed, not on the size of the image. The layer may be in use; what vanishes meanwhile is left out.
func (o *overlay) Changes(ctx context.Context, l backend.Layer) iter.Seq2[backend.Change, error] {
	return func(yield func(backend.Change, error) bool) {
		err := o.walk(ctx, l, false, yield)
		if err != nil && !errors.Is(err, errStopped) {
			yield(backend.Change{}, fmt.Errorf("list changes of layer %s: %w", l.ID, err))
		}
	}
}

// Diff writes the changes as a tar. They are listed first: a layer that cannot be read from its upper
// directory is refused before the first byte.
func (o *overlay) Diff(ctx context.Context, l backend.Layer, w io.Writer) error {
	if err := o.diff(ctx, l, w); err != nil {
		return fmt.Errorf("write diff of layer %s: %w", l.ID, err)
	}
	return nil
}

func (o *overlay) diff(ctx context.Context, l backend.Layer, w io.Writer) error {
	dir, err := o.find(l.ID)
	if err != nil {
		return err
	}
	var changes []backend.Change
	err = o.walk(ctx, l, true, func(c backend.Change, _ error) bool {
		changes = append(changes, c)
		return true
	})
	if err != nil {
		return err
	}
	all := func(yield func(backend.Change, error) bool) {
		for _, c := range changes {
			if !yield(c, nil) {
				return
			}
		}
	}
	return layertar.WriteChanges(ctx, w, filepath.Join(dir, diffDir), all,
		layertar.WriteOptions{IDMap: l.IDMap, Vanished: true})
}

// errStopped ends a walk whose caller wants no more.
var errStopped = errors.New("stopped")

// walker is one walk over an upper directory.
type walker struct {
	ctx     context.Context //nolint:containedctx // a walk lives as long as the call that got ctx
	yield   func(backend.Change, error) bool
	marks   marks
	ids     *backend.IDMap
	content bool // what is listed will be read, too
}

// lower is a directory of a layer below.
type lower struct {
	tree.Dir
	ids       *backend.IDMap
	whiteouts bool // regular files in it may be whiteouts
}

// directory is one that the upper tree has, with those that a lookup in the parent would see in its place.
type directory struct {
	up     *directory // the directory that it is in, nil for the root
	path   string     // within the layer, "" for the root
	upper  tree.Dir
	lowers []lower // topmost first
	// hidden says that nothing of the lowers shows through: the directory, or one it is in, was replaced.
	hidden bool
	// listed is set once the directory is in the output. Until then it has to be listed as soon as a
	// change is found in it. The root counts as listed.
	listed bool
}

// walk yields the changes of a layer. An error ends it and is not yielded. content refuses files whose
// content is not in the upper directory.
func (o *overlay) walk(ctx context.Context, l backend.Layer, content bool, yield func(backend.Change, error) bool) error {
	w := &walker{ctx: ctx, yield: yield, marks: o.marks(), ids: l.IDMap, content: content}
	dir, err := o.find(l.ID)
	if err != nil {
		return err
	}
	root := directory{listed: true}
	if root.upper, err = tree.Open(filepath.Join(dir, diffDir)); err != nil {
		return err
	}
	defer root.upper.Close()
	defer func() { closeAll(root.lowers) }()
	for _, p := range l.Parents {
		dir, err := o.find(p.ID)
		if err != nil {
			return err
		}
		d, err := tree.Open(filepath.Join(dir, diffDir))
		if err != nil {
			return err
		}
		root.lowers = append(root.lowers, lower{Dir: d, ids: p.IDMap, whiteouts: true})
	}
	return w.directory(&root)
}

func closeAll(lowers []lower) {
	for _, l := range lowers {
		l.Close()
	}
}

// emit lists path, which is in d, after the directories above it.
func (w *walker) emit(d *directory, path string, kind backend.ChangeKind) error {
	if !d.listed {
		if err := w.emit(d.up, d.path, backend.Modified); err != nil {
			return err
		}
		d.listed = true
	}
	if !w.yield(backend.Change{Path: path, Kind: kind}, nil) {
		return errStopped
	}
	return nil
}

// directory lists what changed in d.
func (w *walker) directory(d *directory) error {
	if err := w.ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", d.upper.Path, err)
	}
	entries, err := d.upper.Entries()
	if err != nil {
		return err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name)
	}
	if d.hidden { // whatever is not here is gone
		below, err := w.names(d.lowers)
		if err != nil {
			return err
		}
		names = append(names, below...)
		slices.Sort(names)
		names = slices.Compact(names)
	}
	for _, name := range names {
		if err := w.name(d, name); err != nil {
			return err
		}
	}
	return nil
}

// names lists what the lower directories may hold, whiteouts included.
func (w *walker) names(lowers []lower) ([]string, error) {
	var names []string
	for _, l := range lowers {
		again, err := tree.Open(l.Proc(".")) // a position in the listing of our own
		if err != nil {
			return nil, err
		}
		entries, err := again.Entries()
		again.Close()
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			names = append(names, e.Name)
		}
	}
	return names, nil
}

// name compares what the upper directory and the parent have under a name.
func (w *walker) name(d *directory, name string) error {
	upper, err := lstat(d.upper, name)
	if err != nil {
		return err
	}
	if upper == nil && !d.hidden { // vanished
		return nil
	}
	below, err := w.lookup(d.lowers, name)
	if err != nil {
		return err
	}
	gone := upper == nil
	if !gone {
		if gone, err = w.marks.isWhiteout(upper); err != nil {
			return err
		}
	}
	path := d.path + "/" + name
	switch {
	case gone && below == nil:
		return nil
	case gone:
		return w.emit(d, path, backend.Deleted)
	case upper.IsDir():
		return w.subdirectory(d, upper, below, path)
	}
	if err := w.checkContent(upper); err != nil {
		return err
	}
	kind, differs, err := w.compare(upper, below)
	if !differs || err != nil {
		return err
	}
	return w.emit(d, path, kind)
}

// checkContent refuses a file whose content lies in another layer.
func (w *walker) checkContent(f *file) error {
	if !w.content || f.Kind() != unix.S_IFREG {
		return nil
	}
	return ignoreVanished(w.marks.refuseMetacopy(f))
}

// compare returns what to list a file or directory of the upper tree as, if it differs.
func (w *walker) compare(upper *file, below *found) (backend.ChangeKind, bool, error) {
	if below == nil {
		return backend.Added, true, nil
	}
	differs, err := treediff.Differ(&upper.File, w.ids, &below.top.File, below.ids)
	return backend.Modified, differs, err
}

func (w *walker) subdirectory(d *directory, upper *file, below *found, path string) error {
	mark, err := w.marks.ofDirectory(upper)
	if err != nil {
		return ignoreVanished(err)
	}
	kind, differs, err := w.compare(upper, below)
	if err != nil {
		return err
	}
	sub := directory{up: d, path: path, hidden: d.hidden || mark == opaque}
	if sub.upper, err = d.upper.Open(upper.Name); err != nil {
		return ignoreVanished(err)
	}
	defer sub.upper.Close()
	defer func() { closeAll(sub.lowers) }()
	if below != nil {
		if sub.lowers, err = below.open(d.lowers, upper.Name); err != nil {
			return err
		}
	}
	if differs {
		if err := w.emit(d, path, kind); err != nil {
			return err
		}
		sub.listed = true
	}
	return w.directory(&sub)
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

// open opens the directories that lookup found.
func (f *found) open(lowers []lower, name string) (opened []lower, err error) {
	for _, p := range f.stack {
		l := lowers[p.index]
		d, err := l.Open(name)
		if err != nil {
			closeAll(opened)
			return nil, err
		}
		opened = append(opened, lower{Dir: d, ids: l.ids, whiteouts: p.whiteouts})
	}
	return opened, nil
}
