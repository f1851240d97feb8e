package store

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"strata/backend"
	"strata/backend/internal/tree"
)

// Leaving describes a removed layer whose data is still there: it is being deleted, or kept until the last of its children is gone.
type Leaving struct {
	Name  string        `json:"name"` // that it had; another layer may have it now
	ID    string        `json:"id"`
	Keeps bool          `json:"keeps,omitempty"` // it has children
	Usage backend.Usage `json:"usage"`
}

// Leaving measures removed layers, sorted by ID. One that cannot be measured any more, since it is being deleted, is left out.
func (s *Store) Leaving(ctx context.Context) ([]Leaving, error) {
	s.mu.RLock()
	var layers []*layer
	for _, l := range s.byID {
		if l.rec.State == StateRemoving && !l.link {
			layers = append(layers, l)
		}
	}
	s.mu.RUnlock()
	var list []Leaving
	for _, l := range layers {
		u, err := s.weigh(ctx, s.describe(l))
		if ctx.Err() != nil {
			return nil, fmt.Errorf("measure removed layers: %w", context.Cause(ctx))
		}
		if err != nil {
			continue // the deleter was faster; what it cannot delete, it logs
		}
		s.mu.RLock()
		list = append(list, Leaving{Name: l.rec.Name, ID: l.rec.ID, Keeps: l.children > 0, Usage: u})
		s.mu.RUnlock()
	}
	slices.SortFunc(list, func(a, b Leaving) int { return strings.Compare(a.ID, b.ID) })
	return list, nil
}

// weigh measures data in the backend that need not belong to a whole layer. ErrNotImplemented if that takes a mount.
func (s *Store) weigh(ctx context.Context, l backend.Layer) (backend.Usage, error) {
	if s.able.meter != nil {
		return s.able.meter.Usage(ctx, l)
	}
	if s.able.placer == nil {
		return backend.Usage{}, fmt.Errorf("measuring a layer takes a mount: %w", errdefs.ErrNotImplemented)
	}
	p, err := s.able.placer.Place(ctx, l)
	if err != nil {
		return backend.Usage{}, err
	}
	return tree.Usage(ctx, p.Dir)
}

// frees returns how many bytes on disk the removal of a layer frees, nil if nobody can tell.
func (s *Store) frees(ctx context.Context, l backend.Layer) *int64 {
	u, err := s.weigh(ctx, l)
	if err != nil {
		return nil // a size is a help for people; what is wrong with the data is for check to say
	}
	return &u.Size
}
