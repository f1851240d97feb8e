package treediff

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"strata/backend"
	"strata/backend/internal/tree"
)

// Changes lists how the tree at upper differs from the one at lower; "" is the empty tree. An error is the
// last element. The sequence may be run several times, and concurrently, and looks at the trees anew
// each time.
func Changes(ctx context.Context, upper, lower string, o Options) iter.Seq2[backend.Change, error] {
	return func(yield func(backend.Change, error) bool) {
		c := comparison{Options: o, ctx: ctx, yield: yield}
		err := c.roots(upper, lower)
		if err != nil && !errors.Is(err, errStopped) {
			yield(backend.Change{}, fmt.Errorf("compare trees: %w", err))
		}
	}
}

// errStopped ends a walk whose caller wants no more.
var errStopped = errors.New("stopped")

// comparison is one walk.
type comparison struct {
	Options
	ctx   context.Context //nolint:containedctx // a comparison lives as long as the call that got ctx
	yield func(backend.Change, error) bool
}

// pair is a directory that the upper tree has, and its counterpart in the lower one.
type pair struct {
	up    *pair  // the directory that it is in, nil for the root
	path  string // within the tree, "" for the root
	upper tree.Dir
	lower *tree.Dir // nil if there is none
	// listed is set once the directory is in the output. Until then it has to be listed as soon as
	// a change is found below it. The root counts as listed.
	listed bool
}

func (c *comparison) roots(upper, lower string) error {
	root := pair{listed: true}
	var err error
	if root.upper, err = tree.Open(upper); err != nil {
		return err
	}
	defer root.upper.Close()
	if lower != "" {
		d, err := tree.Open(lower)
		if err != nil {
			return err
		}
		defer d.Close()
		root.lower = &d
	}
	return c.directory(&root)
}

// emit lists path, which is in p, after the directories above it.
func (c *comparison) emit(p *pair, path string, kind backend.ChangeKind) error {
	if !p.listed {
		if err := c.emit(p.up, p.path, backend.Modified); err != nil {
			return err
		}
		p.listed = true
	}
	if !c.yield(backend.Change{Path: path, Kind: kind}, nil) {
		return errStopped
	}
	return nil
}

// directory compares what a pair of directories holds.
func (c *comparison) directory(p *pair) error {
	if err := c.ctx.Err(); err != nil {
		return fmt.Errorf("compare %s: %w", p.upper.Path, err)
	}
	upper, err := p.upper.Entries()
	if err != nil {
		return err
	}
	same, err := c.passOver(p)
	if err != nil {
		return err
	}
	var lower []tree.Entry
	if p.lower != nil {
		if lower, err = p.lower.Entries(); err != nil {
			return err
		}
	}
	for len(upper) > 0 || len(lower) > 0 {
		var u, l *tree.Entry
		u, l, upper, lower = nextName(upper, lower)
		if u != nil && l != nil && u.Ino == l.Ino && same(u.Ino) {
			continue
		}
		if err := c.name(p, u, l); err != nil {
			return err
		}
	}
	return nil
}

// nextName takes the smaller first name, or both if they are equal, off two sorted lists.
func nextName(upper, lower []tree.Entry) (u, l *tree.Entry, upperRest, lowerRest []tree.Entry) {
	var order int
	switch {
	case len(upper) == 0:
		order = 1
	case len(lower) == 0:
		order = -1
	default:
		order = strings.Compare(upper[0].Name, lower[0].Name)
	}
	if order <= 0 {
		u, upper = &upper[0], upper[1:]
	}
	if order >= 0 {
		l, lower = &lower[0], lower[1:]
	}
	return u, l, upper, lower
}

// passOver returns a function that tells whether a name with the same inode number in both directories
// needs no look.
func (c *comparison) passOver(p *pair) (func(ino uint64) bool, error) {
	never := func(uint64) bool { return false }
	if p.lower == nil {
		return never, nil
	}
	var u, l unix.Stat_t
	if err := unix.Fstat(p.upper.FD, &u); err != nil {
		return nil, &os.PathError{Op: "stat", Path: p.upper.Path, Err: err}
	}
	if err := unix.Fstat(p.lower.FD, &l); err != nil {
		return nil, &os.PathError{Op: "stat", Path: p.lower.Path, Err: err}
	}
	switch {
	case u.Dev == l.Dev:
		return func(uint64) bool { return true }, nil
	case c.Unchanged != nil:
		return func(ino uint64) bool { return c.Unchanged(uint64(u.Dev), ino) }, nil
	}
	return never, nil
}

// name compares one name. u or l is nil if the directory listing has it not.
func (c *comparison) name(p *pair, u, l *tree.Entry) error {
	var upper, lower *File
	var err error
	if u != nil {
		if upper, err = Lstat(p.upper, u.Name); err != nil {
			return err
		}
	}
	if l != nil {
		if lower, err = Lstat(*p.lower, l.Name); err != nil {
			return err
		}
	}
	return c.files(p, upper, lower)
}

// files compares two files of one name, of which either may be nil.
func (c *comparison) files(p *pair, upper, lower *File) error {
	if upper == nil {
		if lower == nil { // vanished
			return nil
		}
		return c.emit(p, p.path+"/"+lower.Name, backend.Deleted)
	}
	path, kind, differs := p.path+"/"+upper.Name, backend.Added, true
	if lower != nil {
		var err error
		kind = backend.Modified
		if differs, err = Differ(upper, c.UpperIDs, lower, c.LowerIDs); err != nil {
			return err
		}
	}
	if upper.IsDir() {
		return c.subdirectory(p, upper, lower, path, kind, differs)
	}
	if !differs {
		return nil
	}
	return c.emit(p, path, kind)
}

// subdirectory lists a directory of the upper tree, if it differs, and compares its content.
func (c *comparison) subdirectory(p *pair, upper, lower *File, path string, kind backend.ChangeKind, differs bool) error {
	sub := pair{up: p, path: path}
	var err error
	sub.upper, err = p.upper.Open(upper.Name)
	if vanished(err) {
		return c.files(p, nil, lower)
	}
	if err != nil {
		return err
	}
	defer sub.upper.Close()
	if lower != nil && lower.IsDir() {
		d, err := p.lower.Open(lower.Name)
		if err != nil && !vanished(err) {
			return err
		}
		if err == nil {
			defer d.Close()
			sub.lower = &d
		}
	}
	if differs {
		if err := c.emit(p, path, kind); err != nil {
			return err
		}
		sub.listed = true
	}
	return c.directory(&sub)
}
