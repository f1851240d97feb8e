package treediff

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"strata/backend"
	"strata/backend/internal/dirfd"
)

// Changes lists how the tree at upper differs from the one at lower; "" is the empty tree. An error is the
// last element. The sequence may be run several times, and concurrently, and looks at the trees anew
// each time.
func Changes(ctx context.Context, upper, lower string, o Options) iter.Seq2[backend.Change, error] {
	return func(yield func(backend.Change, error) bool) {
		c := comparison{Options: o, ctx: ctx, links: Linker{OneDisk: o.OneDisk}}
		err := c.trees(upper, lower, yield)
		if err != nil && !errors.Is(err, ErrStopped) {
			yield(backend.Change{}, fmt.Errorf("compare trees: %w", err))
		}
	}
}

// comparison is one walk through both trees, side by side.
type comparison struct {
	Options
	ctx   context.Context //nolint:containedctx // a comparison lives as long as the call that got ctx
	links Linker
	// look are names that are not passed over, with the directories above them, by the device of the directory that each is
	// in and its number there.
	look map[dirfd.Inode]bool

	upper *dirfd.Walk
	// lower is in the counterpart of the directory where upper is, or of the nearest one above that has one; nil for the empty tree.
	lower  *dirfd.Walk
	stack  []pair // the directories from the root to where upper is
	paired int    // how many of them have a counterpart
	out    *Output
}

// pair is a directory that the upper tree has, with what is to be known of its counterpart.
type pair struct {
	dev  uint64
	pass passing
}

// passing tells which names with the same inode number in both directories need no look.
type passing uint8

const (
	passNone passing = iota
	passAsked
	passAll
)

// trees lists how the trees differ.
func (c *comparison) trees(upper, lower string, yield func(backend.Change, error) bool) error {
	if lower == "" {
		c.links.round = final
		return c.roots(upper, lower, yield)
	}
	return c.links.Walk(yield, func(yield func(backend.Change, error) bool) error {
		if err := c.lookAgain(upper); err != nil {
			return err
		}
		return c.roots(upper, lower, yield)
	})
}

func (c *comparison) roots(upper, lower string, yield func(backend.Change, error) bool) error {
	u, err := dirfd.Open(upper)
	if err != nil {
		return err
	}
	defer u.Close()
	c.upper, c.lower = dirfd.NewWalk(u, dirfd.ByName), nil
	defer c.upper.Close()
	c.stack, c.paired, c.out = c.stack[:0], 0, NewOutput(c.upper, yield)
	if lower != "" {
		l, err := dirfd.Open(lower)
		if err != nil {
			return err
		}
		defer l.Close()
		c.lower, c.paired = dirfd.NewWalk(l, dirfd.ByName), 1
		defer c.lower.Close()
	}
	if err := c.push(); err != nil {
		return err
	}
	return c.walk()
}

// walk compares what the pairs of directories hold.
func (c *comparison) walk() error {
	for {
		n, ok, err := c.next()
		switch {
		case err != nil:
			return err
		case ok:
			err = c.name(&n)
		case c.upper.Depth() == 0:
			return nil
		default:
			err = c.leave()
		}
		if err != nil {
			return err
		}
	}
}

// push takes the directory where upper is onto the stack.
func (c *comparison) push() error {
	if err := c.ctx.Err(); err != nil {
		return fmt.Errorf("compare %s: %w", c.upper.Dir(), err)
	}
	c.stack = append(c.stack, pair{})
	c.out.Moved()
	if !c.isPaired() {
		return nil
	}
	u, err := device(c.upper.Dir())
	if err != nil {
		return err
	}
	l, err := device(c.lower.Dir())
	if err != nil {
		return err
	}
	p := pair{dev: u}
	switch {
	case u == l:
		p.pass = passAll
	case c.Unchanged != nil:
		p.pass = passAsked
	}
	c.stack[len(c.stack)-1] = p
	return nil
}

func device(d dirfd.Dir) (uint64, error) {
	st, err := d.Self().Stat()
	return uint64(st.Dev), err
}

// isPaired tells that the directory where upper is has a counterpart, which is where lower is.
func (c *comparison) isPaired() bool { return c.paired == len(c.stack) }

// leave goes back to the directory above. One that was moved away meanwhile counts as gone, with what it holds.
func (c *comparison) leave() error {
	if err := c.upper.Leave(); err != nil && !errors.Is(err, dirfd.ErrMoved) {
		return err
	}
	c.out.Moved()
	c.stack = c.stack[:c.upper.Depth()+1]
	c.paired = min(c.paired, len(c.stack))
	for c.lower != nil && c.lower.Depth() >= c.paired {
		if err := c.lower.Leave(); err != nil {
			return err
		}
	}
	return nil
}

// names is one name in a pair of directories, which one of the two may not have.
type names struct {
	upper, lower     dirfd.Entry
	inUpper, inLower bool
}

// next returns the next name that needs a look; false at the end of both directories.
func (c *comparison) next() (n names, ok bool, err error) {
	top := c.stack[len(c.stack)-1]
	for {
		if n, ok, err = c.nextName(); !ok || err != nil {
			return n, false, err
		}
		if !n.inUpper || !n.inLower || n.upper.Ino != n.lower.Ino || !c.passOver(top, n.upper.Ino) {
			return n, true, nil
		}
	}
}

// nextName steps over the smaller next name of both directories, or over both if they are equal.
func (c *comparison) nextName() (n names, ok bool, err error) {
	if n.upper, n.inUpper, err = c.upper.Peek(); err != nil {
		return n, false, err
	}
	if c.isPaired() {
		if n.lower, n.inLower, err = c.lower.Peek(); err != nil {
			return n, false, err
		}
	}
	if n.inUpper && n.inLower {
		order := strings.Compare(n.upper.Name, n.lower.Name)
		n.inUpper, n.inLower = order <= 0, order >= 0
	}
	if n.inUpper {
		_, _, err = c.upper.Next()
	}
	if n.inLower && err == nil {
		_, _, err = c.lower.Next()
	}
	return n, n.inUpper || n.inLower, err
}

// passOver tells that a name with the same inode number in both directories needs no look.
func (c *comparison) passOver(p pair, ino uint64) bool {
	switch p.pass {
	case passAll:
		return true
	case passAsked:
		return !c.look[dirfd.Inode{Dev: p.dev, Ino: ino}] && c.Unchanged(p.dev, ino)
	default:
		return false
	}
}

// name compares one name.
func (c *comparison) name(n *names) error {
	var upper, lower *File
	var err error
	if n.inUpper {
		if upper, err = Lstat(c.upper.Dir(), n.upper.Name); err != nil {
			return err
		}
	}
	if n.inLower {
		if lower, err = Lstat(c.lower.Dir(), n.lower.Name); err != nil {
			return err
		}
	}
	return c.files(upper, lower)
}

// files compares two files of one name, of which either may be nil.
func (c *comparison) files(upper, lower *File) error {
	if upper == nil {
		if lower == nil { // vanished
			return nil
		}
		return c.out.Name(lower.Name, backend.Deleted)
	}
	kind := backend.Added
	if lower != nil {
		kind = backend.Modified
	}
	differs, err := c.links.Differ(upper, c.UpperIDs, lower, c.LowerIDs)
	if err != nil {
		return err
	}
	if upper.IsDir() {
		return c.subdirectory(upper, lower, kind, differs)
	}
	if !differs {
		return nil
	}
	return c.out.Name(upper.Name, kind)
}

// subdirectory goes into a directory of the upper tree, and lists it if it differs.
func (c *comparison) subdirectory(upper, lower *File, kind backend.ChangeKind, differs bool) error {
	err := c.upper.Enter(upper.Name)
	if dirfd.Vanished(err) {
		return c.files(nil, lower)
	}
	if err != nil {
		return err
	}
	if lower != nil && lower.IsDir() {
		err := c.lower.Enter(lower.Name)
		if err != nil && !dirfd.Vanished(err) {
			return err
		}
		if err == nil {
			c.paired++
		}
	}
	if err := c.push(); err != nil {
		return err
	}
	if differs {
		return c.out.Directory(kind)
	}
	return nil
}
