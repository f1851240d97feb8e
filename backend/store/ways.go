package store

import (
	"context"
	"errors"
	"iter"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"strata/backend"
	"strata/backend/internal/mount"
	"strata/backend/internal/treediff"
)

// way is how the difference between a layer and another one is found.
type way string

const (
	wayLog     way = "replay the exact tar"
	wayList    way = "native list"
	wayNarrow  way = "compare what changed"
	wayCompare way = "compare trees"
)

// ways returns the ways to a layer's difference, best first: where one is not implemented for a layer the next one is
// taken. own says that the other layer is the layer's own parent, exact that the tar that filled the layer is kept and
// wanted.
func (a abilities) ways(own, exact bool) []way {
	if own && exact {
		return []way{wayLog}
	}
	var ways []way
	if own && a.changer != nil {
		ways = append(ways, wayList)
	}
	if own && a.narrower != nil {
		ways = append(ways, wayNarrow)
	}
	return append(ways, wayCompare)
}

// join is how people are told the order.
func join(ways []way) string {
	words := make([]string, 0, len(ways))
	for _, w := range ways {
		words = append(words, string(w))
	}
	return strings.Join(words, ", else ")
}

// takeChanges takes the changes between two layers, and the place of the upper one's files.
type takeChanges func(at backend.Place, changes iter.Seq2[backend.Change, error]) error

// changes hands the difference of a pair to take. ErrNotImplemented leads to the next way as long as no change was
// handed out.
func (s *Store) changes(ctx context.Context, p *pairing, take takeChanges) error {
	ways := s.able.ways(p.direct, false)
	for i, w := range ways {
		begun := false
		err := s.changesBy(ctx, w, p, func(at backend.Place, changes iter.Seq2[backend.Change, error]) error {
			return take(at, noting(changes, &begun))
		})
		if begun || i == len(ways)-1 || !errdefs.IsNotImplemented(err) {
			return err
		}
		log.G(ctx).WithError(err).WithFields(log.Fields{"layer": s.snapshot(p.layer).Name, "way": w, "next": ways[i+1]}).
			Warn("the backend cannot tell what changed in this layer; going another way")
	}
	return nil
}

// noting notes whether any change was handed out.
func noting(changes iter.Seq2[backend.Change, error], begun *bool) iter.Seq2[backend.Change, error] {
	return func(yield func(backend.Change, error) bool) {
		for c, err := range changes {
			*begun = *begun || err == nil
			if !yield(c, err) {
				return
			}
		}
	}
}

// changesBy does the work of changes in one way.
func (s *Store) changesBy(ctx context.Context, w way, p *pairing, take takeChanges) (err error) {
	if w != wayList {
		return s.compare(ctx, p, w == wayNarrow, take)
	}
	at, release, err := s.files(ctx, p.layer)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	return take(at, s.able.changer.Changes(ctx, s.describe(p.layer)))
}

// compare compares the trees of a pair.
func (s *Store) compare(ctx context.Context, p *pairing, narrow bool, take takeChanges) (err error) {
	upper, err := s.tree(ctx, p.layer)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(upper.explain(err), upper.release()) }()
	o := treediff.Options{UpperIDs: s.snapshot(p.layer).IDMap}
	lower := view{release: func() error { return nil }}
	if p.parent != nil {
		if lower, err = s.tree(ctx, p.parent); err != nil {
			return err
		}
		o.LowerIDs = s.snapshot(p.parent).IDMap
	}
	defer func() { err = errors.Join(lower.explain(err), lower.release()) }()
	if narrow && p.parent != nil {
		if o.Unchanged, err = s.able.narrower.Narrow(ctx, s.describe(p.layer), upper.dir, lower.dir); err != nil {
			return err
		}
		o.OneDisk = o.Unchanged != nil
	}
	return take(backend.Place{Dir: upper.dir}, treediff.Changes(ctx, upper.dir, lower.dir, o))
}

// tree gives access to the complete tree of a layer that is pinned, or is below one that is: in its place if that holds
// the tree as it is seen, else in a mount.
func (s *Store) tree(ctx context.Context, l *layer) (view, error) {
	if s.able.placer != nil {
		at, err := s.able.placer.Place(ctx, s.describe(l))
		if err != nil {
			return view{}, err
		}
		if at.Whole() {
			// A client that has mounted the directory itself may have mounted something in it, which is seen there, too.
			dir, release, err := mount.Bare(at.Dir)
			return view{dir: dir, shown: at.Dir, release: release}, err
		}
	}
	return s.open(ctx, l)
}

// files gives access to the files that a pinned layer itself holds.
func (s *Store) files(ctx context.Context, l *layer) (at backend.Place, release func() error, err error) {
	if s.able.placer != nil {
		at, err = s.able.placer.Place(ctx, s.describe(l))
		return at, func() error { return nil }, err
	}
	t, err := s.open(ctx, l)
	return backend.Place{Dir: t.dir}, t.release, err
}
