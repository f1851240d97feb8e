package store

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"strata/backend"
	"strata/backend/internal/failpoint"
)

// Adopt lists layers that another program has made in the backend's place and, if told to, takes them in under the
// names that they have. Nothing is copied or renamed. It can be repeated after it was cut off. The other program must
// not be running. ErrNotImplemented if the backend cannot, ErrFailedPrecondition if the store promises exact diffs,
// which nobody can keep for them, ErrAlreadyExists if a name is taken, ErrUnavailable beside another Adopt.
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
	if !s.adopting.TryLock() { // what one lists, another may have taken in, and a client removed
		return nil, fmt.Errorf("adopt: another adoption is under way: %w", errdefs.ErrUnavailable)
	}
	defer s.adopting.Unlock()
	found, err := s.foundlings(ctx)
	if err != nil {
		return nil, fmt.Errorf("adopt: %w", err)
	}
	list := make([]Adoption, 0, len(found))
	for _, f := range found {
		a := Adoption{Name: f.ID, Parent: f.Parent}
		if yes {
			if err := s.adopt(ctx, f); err != nil {
				return list, fmt.Errorf("adopt layer %q: %w", f.ID, classify(err))
			}
			a.Adopted = true
		}
		list = append(list, a)
	}
	return list, nil
}

// foundlings lists what could be adopted.
func (s *Store) foundlings(ctx context.Context) ([]backend.Foundling, error) {
	before := s.made()
	found, err := s.able.adopter.Adoptable(ctx)
	after := s.made()
	return slices.DeleteFunc(found, func(f backend.Foundling) bool { return before[f.ID] || after[f.ID] }), s.backendError("look for layers to adopt in", err)
}

// made returns the IDs of the layers that the store has not adopted.
func (s *Store) made() map[string]bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	ids := map[string]bool{}
	for id, l := range s.byID {
		if l.rec.Name != id { // an adopted layer keeps its name, and one whose adoption was cut off is adopted again
			ids[id] = true
		}
	}
	return ids
}

// adopt seals the parent of a foundling, writes its record, so that its data is never an orphan's, and gives it to the
// backend.
func (s *Store) adopt(ctx context.Context, f backend.Foundling) error {
	l, err := s.admitFoundling(f)
	if err != nil {
		return err
	}
	defer l.mu.Unlock()
	if err := s.sealParent(ctx, l); err != nil {
		s.turnAway(l)
		return err
	}
	rec := s.snapshot(l)
	ready := rec
	ready.State = StateReady
	if err := s.records.Replace(rec, ready, s.sync.record()); err != nil {
		s.turnAway(l)
		return err
	}
	defer s.setRecord(l, ready) // until the backend has it, nobody finds it
	if err := s.sync.step(); err != nil {
		return err
	}
	if err := failpoint.Hit("store.adopt.recorded"); err != nil {
		return err
	}
	if err := s.able.adopter.Adopt(ctx, s.describe(l)); err != nil {
		return err
	}
	return failpoint.Hit("store.adopt.adopted")
}

// sealParent wants l.mu.
func (s *Store) sealParent(ctx context.Context, l *layer) error {
	p := l.parent
	if p == nil || s.snapshot(p).Sealed {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := s.seal(ctx, p); err != nil {
		return fmt.Errorf("parent: %w", err)
	}
	return nil
}

// admitFoundling returns the foundling's layer, locked: a new one, or the one whose adoption was cut off.
func (s *Store) admitFoundling(f backend.Foundling) (*layer, error) {
	if err := backend.CheckID(f.ID); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.bad[f.ID]; b != nil {
		return nil, fmt.Errorf("its record cannot be used, see strata check: %w", b.Err)
	}
	if old := s.byID[f.ID]; old != nil && !old.gone && old.rec.Name == f.ID {
		if !old.mu.TryLock() {
			return nil, fmt.Errorf("it is in use: %w", errdefs.ErrUnavailable)
		}
		if err := old.usable(); err != nil {
			old.mu.Unlock()
			return nil, err
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
		if err := l.parent.usable(); err != nil {
			return nil, fmt.Errorf("parent: %w", err)
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
	var leaving []*layer
	if l.rec.State == StateCreating { // else it was recorded at another time
		s.unname(l)
		delete(s.byID, l.rec.ID)
		l.gone = true
		if l.parent != nil {
			l.parent.children--
			leaving = l.parent.leave()
		}
	}
	s.mu.Unlock()
	s.deleter.add(leaving...)
}
