package overlay

import (
	"context"
	"iter"
	"path/filepath"

	"strata/backend"
	"strata/backend/overlay/upper"
)

// Changes compares the upper directory with those of the parents.
func (o *overlay) Changes(ctx context.Context, l backend.Layer) iter.Seq2[backend.Change, error] {
	return func(yield func(backend.Change, error) bool) {
		top, parents, err := o.uppers(l)
		if err != nil {
			yield(backend.Change{}, err)
			return
		}
		upper.Changes(ctx, o.marks, top, parents)(yield)
	}
}

// below returns how to open the view of a layer's parents.
func (o *overlay) below(l backend.Layer) func() (backend.Below, error) {
	return func() (backend.Below, error) {
		mapped, err := o.mapsIDs(l)
		if err != nil {
			return nil, err
		}
		_, parents, err := o.uppers(l)
		if err != nil {
			return nil, err
		}
		return upper.Below(o.marks, parents, l.IDMap, mapped)
	}
}

// uppers finds a layer's upper directory and those of its parents, nearest first.
func (o *overlay) uppers(l backend.Layer) (top upper.Layer, parents []upper.Layer, err error) {
	all := make([]upper.Layer, 0, 1+len(l.Parents))
	for _, p := range append([]backend.Parent{{ID: l.ID, IDMap: l.IDMap}}, l.Parents...) {
		dir, err := o.Find(p.ID)
		if err != nil {
			return top, nil, err
		}
		all = append(all, upper.Layer{Dir: filepath.Join(dir, diffDir), IDs: p.IDMap})
	}
	return all[0], all[1:], nil
}
