package store

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"strata/backend"
	"strata/backend/internal/failpoint"
)

// Adopt lists layers that another program has made in the backend's place and, if told to, takes them in under the
// names that they have. Nothing is copied or renamed. It can be repeated after it was cut off. The other program must
// not be running. ErrNotImplemented if the backend cannot, ErrFailedPrecondition if the store promises exact diffs,
// which nobody can keep for them, ErrAlreadyExists if a name is taken.
func (s *Store) Adopt(ctx context.Context, yes bool) ([]Adoption, error) {
	if s.able.adopter == nil {
		return nil, fmt.Errorf("adopt: backend %s takes in no other program's layers: %w", s.meta.Backend, errdefs.ErrNotImplemented)
	}
	if yes {
		if err := s.writable(); err != nil {
			return nil, fmt.Errorf("adopt: %w", err)
		}
		if s.meta.ExactDiffs {
			return nil, fmt.Errorf("adopt: the store promises exact diffs, so that Docker would not keep its own record of the layers and find them changed: make a store with exact-diffs=false: %w", errdefs.ErrFailedPrecondition)
		}
	}
	found, err := s.able.adopter.Adoptable(ctx)
	if err != nil {
		return nil, fmt.Errorf("adopt: %w", err)
	}
	list := make([]Adoption, 0, len(found))
	for _, f := range found {
		a := Adoption{Name: f.ID, Parent: f.Parent}
		if yes {
			if err := s.adopt(ctx, f); err != nil {
				return list, fmt.Errorf("adopt layer %q: %w", f.ID, err)
			}
			a.Adopted = true
		}
		list = append(list, a)
	}
	return list, nil
}

// adopt writes the record of a foundling, so that its data is never an orphan's, gives it to the backend, and seals
// its parent.
func (s *Store) adopt(ctx context.Context, f backend.Foundling) error {
	l, err := s.admitFoundling(f)
	if err != nil {
		return err
	}
	defer l.mu.Unlock()
	if err := s.rewrite(l, s.recordSyncer(), func(r *record) { r.State = StateReady }); err != nil {
		s.turnAway(l)
		return err
	}
	if err := s.syncStep(); err != nil {
		return err
	}
	if err := failpoint.Hit("store.adopt.recorded"); err != nil {
		return err
	}
	if l.parent != nil {
		if err := s.seal(ctx, l.parent); err != nil {
			return fmt.Errorf("parent: %w", err)
		}
	}
	if err := s.able.adopter.Adopt(ctx, s.describe(l)); err != nil {
		return err
	}
	return failpoint.Hit("store.adopt.adopted")
}

// admitFoundling returns the foundling's layer, locked: a new one, or the one whose adoption was cut off.
func (s *Store) admitFoundling(f backend.Foundling) (*layer, error) {
	if err := backend.CheckID(f.ID); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.byID[f.ID]; old != nil && !old.gone && old.rec.Name == f.ID {
		if !old.mu.TryLock() {
			return nil, fmt.Errorf("it is in use: %w", errdefs.ErrUnavailable)
		}
		return old, nil
	}
	if s.byName[f.ID] != nil || s.byID[f.ID] != nil {
		return nil, errdefs.ErrAlreadyExists
	}
	l := &layer{rec: record{ID: f.ID, Name: f.ID, Parent: f.Parent, State: StateCreating, Created: time.Now().UTC()}}
	if f.Parent != "" {
		if l.parent = s.byID[f.Parent]; l.parent == nil {
			return nil, fmt.Errorf("parent %s: %w", f.Parent, errdefs.ErrNotFound)
		}
	}
	l.mu.Lock()
	s.byName[f.ID] = l
	s.graft(l)
	return l, nil
}

// turnAway takes a foundling that could not be recorded out of the tree again. It wants l.mu.
func (s *Store) turnAway(l *layer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.rec.State != StateCreating {
		return // it was recorded at another time
	}
	delete(s.byName, l.rec.Name)
	delete(s.byID, l.rec.ID)
	l.gone = true
	if l.parent != nil {
		l.parent.children--
	}
}
