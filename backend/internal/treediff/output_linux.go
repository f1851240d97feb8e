package treediff

import (
	"errors"

	"strata/backend"
	"strata/backend/internal/dirfd"
)

// ErrStopped ends a walk whose caller wants no more.
var ErrStopped = errors.New("stopped")

// Output lists the changes that a walk finds. A directory that holds changes comes before them.
type Output struct {
	walk  *dirfd.Walk
	yield func(backend.Change, error) bool
	// listed is how many directories from the root to where the walk is are in the output. One that is not has to be listed as
	// soon as a change is found below it. The root counts as listed.
	listed int
	dir    string // where the walk is, once asked for
}

// NewOutput begins where the walk does. yield gets no errors.
func NewOutput(walk *dirfd.Walk, yield func(backend.Change, error) bool) *Output {
	return &Output{walk: walk, yield: yield, listed: 1}
}

// Moved is to be called after the walk has gone into a directory or back.
func (o *Output) Moved() {
	o.listed, o.dir = min(o.listed, o.walk.Depth()+1), ""
}

// Name lists a name in the directory where the walk is.
func (o *Output) Name(name string, kind backend.ChangeKind) error {
	if err := o.Directory(backend.Modified); err != nil {
		return err
	}
	if o.dir == "" && o.walk.Depth() > 0 {
		o.dir = "/" + o.walk.Path()
	}
	return o.change(o.dir+"/"+name, kind)
}

// Directory lists the directory where the walk is, unless it is in the output.
func (o *Output) Directory(kind backend.ChangeKind) error {
	depth := o.walk.Depth()
	if o.listed > depth {
		return nil
	}
	path := "/" + o.walk.Path()
	for names, end := 0, 1; end <= len(path); end++ {
		if end < len(path) && path[end] != '/' {
			continue
		}
		if names++; names < o.listed {
			continue
		}
		as := backend.Modified
		if names == depth {
			as = kind
		}
		if err := o.change(path[:end], as); err != nil {
			return err
		}
	}
	o.listed = depth + 1
	return nil
}

func (o *Output) change(path string, kind backend.ChangeKind) error {
	if !o.yield(backend.Change{Path: path, Kind: kind}, nil) {
		return ErrStopped
	}
	return nil
}
