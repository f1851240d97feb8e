package store

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"strata/backend"
	"strata/backend/internal/failpoint"
	"strata/backend/store/records"
)

// Commit makes a layer that was written to a read-only one of another name. It keeps its data and its ID: only the
// record changes, in one step, so that a Commit that was cut off leaves the layer as it was or committed. o.Parent is
// for a layer that was made without parents and Detached; the other layer is sealed by it. With SyncLayer a committed
// layer survives a power cut, content included. ErrNotFound, ErrAlreadyExists, ErrFailedPrecondition (the layer is
// sealed, mounted by the store, or has another parent), ErrNotImplemented (the backend cannot give a layer a parent
// that it was not made with), ErrInvalidArgument.
func (s *Store) Commit(ctx context.Context, name, as string, o CommitOptions) error {
	if err := s.writable(); err != nil {
		return err
	}
	if err := records.CheckName(as); err != nil {
		return err
	}
	if err := checkLabels(o.Labels); err != nil {
		return fmt.Errorf("layer %q: %w", as, err)
	}
	parent, err := s.commitParent(ctx, name, o.Parent)
	if err != nil {
		return err
	}
	l, err := s.hold(ctx, name)
	if err != nil {
		return err
	}
	defer l.mu.Unlock()
	if parent, err = s.claim(l, as, parent); err != nil {
		return s.layerError("commit", l, err)
	}
	err = s.commitAs(ctx, l, as, parent, o)
	s.settleName(l, name, as, parent)
	if err != nil {
		return s.layerError("commit", l, err)
	}
	return failpoint.Hit("store.commit.recorded")
}

// settleName ends a commit. It drops whichever of the two names is not in the record, and undoes the new parent link if
// the commit failed. It wants l.mu.
func (s *Store) settleName(l *layer, name, as string, parent *layer) {
	s.mu.Lock()
	var leaving []*layer
	if l.rec.Name == as {
		delete(s.byName, name)
	} else {
		delete(s.byName, as)
		if parent != nil {
			l.parent = nil
			parent.children--
			leaving = parent.leave()
		}
	}
	s.mu.Unlock()
	s.deleter.add(leaving...)
}

// commitParent returns the layer that a Commit names as parent, sealed, or nil if it names none. What is against it is said before
// anything is sealed.
func (s *Store) commitParent(ctx context.Context, name, parent string) (*layer, error) {
	if parent == "" {
		return nil, nil //nolint:nilnil // nil is no other parent
	}
	l, err := s.ready(ctx, name)
	if err != nil {
		return nil, err
	}
	p, err := s.ready(ctx, parent)
	if err != nil {
		return nil, fmt.Errorf("parent: %w", err)
	}
	s.mu.RLock()
	_, err = s.otherParent(l, p)
	s.mu.RUnlock()
	if err != nil {
		return nil, s.layerError("commit", l, err)
	}
	if p, err = s.sealed(ctx, parent); err != nil {
		return nil, fmt.Errorf("parent: %w", err)
	}
	return p, nil
}

// otherParent returns p if it may become the layer's parent, nil if it is or none is wanted. It wants Store.mu.
func (s *Store) otherParent(l, p *layer) (*layer, error) {
	if p == nil || l.parent != nil && l.parent.data() == p {
		return nil, nil //nolint:nilnil // nil is no other parent
	}
	if err := l.unused(); err != nil {
		return nil, err
	}
	switch {
	case l == p:
		return nil, fmt.Errorf("layer %q as its own parent: %w", l.rec.Name, errdefs.ErrInvalidArgument)
	case l.parent != nil:
		return nil, fmt.Errorf("its parent is %q, not %q: %w", l.parent.data().rec.Name, p.rec.Name, errdefs.ErrInvalidArgument)
	case s.able.rebaser == nil || !l.rec.Detached:
		return nil, fmt.Errorf("backend %s cannot give a layer a parent that it was not made with: take rebase out of the capabilities of Strata's proxy plugin in containerd's configuration: %w",
			s.meta.Backend, errdefs.ErrNotImplemented)
	case !l.rec.IDMap.Equal(p.rec.IDMap):
		return nil, fmt.Errorf("parent %q has another ID map: %w", p.rec.Name, errdefs.ErrInvalidArgument)
	}
	if err := p.usable(); err != nil {
		return nil, fmt.Errorf("parent: %w", err)
	}
	return p, nil
}

// claim takes the name that a layer is about to have, and a place among the children of its parent, which it returns, nil if
// it keeps the one that it has. Until the commit has ended nobody finds the layer by that name. It wants l.mu.
func (s *Store) claim(l *layer, as string, parent *layer) (*layer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := l.unused(); err != nil {
		return nil, err
	}
	if s.byName[as] != nil {
		return nil, fmt.Errorf("layer %q: %w", as, errdefs.ErrAlreadyExists)
	}
	parent, err := s.otherParent(l, parent)
	if err != nil {
		return nil, err
	}
	if parent != nil {
		parent.children++
	}
	s.byName[as] = l
	return parent, nil
}

// commitAs does the work of Commit. It wants l.mu.
func (s *Store) commitAs(ctx context.Context, l *layer, as string, parent *layer, o CommitOptions) error {
	if err := s.deactivate(ctx, l, returnedNow); err != nil {
		return err
	}
	if s.snapshot(l).Detached && s.able.rebaser != nil {
		if err := s.rebase(ctx, l, parent); err != nil {
			return err
		}
	}
	err := s.sealLocked(ctx, l, s.sync.committed(ctx, s.describe(l), l.content), func(r *record) {
		r.Name, r.Labels, r.Detached, r.Lent = as, o.Labels, false, false
		if parent != nil {
			r.Parent = s.snapshot(parent).ID
		}
	})
	if err != nil {
		return err
	}
	return s.sync.step()
}

// rebase gives a detached layer its parent, or none. It wants l.mu.
func (s *Store) rebase(ctx context.Context, l, parent *layer) error {
	d := s.describe(l)
	d.Parents = s.chain(parent)
	if err := s.able.rebaser.Rebase(ctx, d); err != nil {
		return err
	}
	l.content.rebased(&s.sync)
	if err := failpoint.Hit("store.commit.rebased"); err != nil || parent == nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l.parent = parent // of which it is a child since claim
	return nil
}

// Link gives a layer, which is sealed by it, another name. Seen from outside it is a child that holds nothing of its
// own: it cannot be written to, and the layer can only be removed after it. Errors and durability as for Create.
func (s *Store) Link(ctx context.Context, name, target string, labels map[string]string) error {
	if _, err := s.ready(ctx, target); err != nil {
		return fmt.Errorf("link: %w", err)
	}
	if err := s.creatable(name, true, CreateOptions{Labels: labels}); err != nil {
		return err
	}
	t, err := s.sealed(ctx, target)
	if err != nil {
		return fmt.Errorf("link: %w", err)
	}
	return s.create(ctx, name, t, CreateOptions{Labels: labels, IDMap: s.snapshot(t).IDMap}, making{
		link: true,
		fill: func(context.Context, *layer) error { return nil },
		sync: func(context.Context, backend.Layer) error { return nil },
	})
}
