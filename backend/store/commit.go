package store

import (
	"context"
	"fmt"
	"maps"

	"github.com/containerd/errdefs"

	"strata/backend"
	"strata/backend/internal/failpoint"
)

// Commit makes a layer that was written to a read-only one of another name. It keeps its data and its ID: only the
// record changes, in one step, so that a Commit that was cut off leaves the layer as it was or committed. o.Parent is
// for a layer that was made without parents and Detached; the other layer is sealed by it. With SyncLayer a committed
// layer survives a power cut, content included. ErrNotFound, ErrAlreadyExists, ErrFailedPrecondition (the layer is
// sealed, mounted by the store, or has another parent), ErrNotImplemented (the backend cannot give a layer a parent
// that it was not made with), ErrInvalidArgument.
func (s *Store) Commit(ctx context.Context, name, as string, o CommitOptions) error {
	if err := s.commit(ctx, name, as, o); err != nil {
		return fmt.Errorf("commit layer %q: %w", name, classify(err))
	}
	return nil
}

func (s *Store) commit(ctx context.Context, name, as string, o CommitOptions) error {
	if err := s.writable(); err != nil {
		return err
	}
	if err := checkName(as); err != nil {
		return err
	}
	l, err := s.ready(name)
	if err != nil {
		return err
	}
	parent, err := s.commitParent(ctx, l, o.Parent)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := s.claim(l, name, as); err != nil {
		return err
	}
	err = s.commitAs(ctx, l, as, parent, o)
	s.settleName(l, name, as)
	if err != nil {
		return err
	}
	return failpoint.Hit("store.commit.recorded")
}

// settleName ends a commit: of the layer's two names it keeps the one in its record, and of its parents likewise. It wants l.mu.
func (s *Store) settleName(l *layer, name, as string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.rec.Name == as {
		delete(s.byName, name)
		return
	}
	delete(s.byName, as)
	if l.parent != nil && l.rec.Parent == "" {
		l.parent.children--
		l.parent = nil
	}
}

// commitParent returns the layer that is to become l's parent, sealed, or nil if l keeps the one it has.
func (s *Store) commitParent(ctx context.Context, l *layer, name string) (*layer, error) {
	if name == "" {
		return nil, nil //nolint:nilnil // nil is no other parent
	}
	p, err := s.ready(name)
	if err != nil {
		return nil, fmt.Errorf("parent: %w", err)
	}
	switch own := s.parentOf(l); {
	case own == p:
		return nil, nil //nolint:nilnil // nil is no other parent
	case own != nil:
		return nil, fmt.Errorf("its parent is %q, not %q: %w", s.snapshot(own).Name, name, errdefs.ErrInvalidArgument)
	case s.able.rebaser == nil || !s.snapshot(l).Detached:
		return nil, fmt.Errorf("backend %s cannot give a layer a parent that it was not made with: take rebase out of the capabilities of Strata's proxy plugin in containerd's configuration: %w",
			s.meta.Backend, errdefs.ErrNotImplemented)
	case !s.snapshot(l).IDMap.Equal(s.snapshot(p).IDMap):
		return nil, fmt.Errorf("parent %q has another ID map: %w", name, errdefs.ErrInvalidArgument)
	}
	if err := s.seal(ctx, p); err != nil {
		return nil, fmt.Errorf("parent: %w", err)
	}
	return p, nil
}

// claim takes the name that a layer is about to have. Until then nobody finds the layer by it. It wants l.mu.
func (s *Store) claim(l *layer, name, as string) error {
	if err := s.unused(l); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.rec.Name != name {
		return fmt.Errorf("layer %q: %w", name, errdefs.ErrNotFound)
	}
	if s.byName[as] != nil {
		return fmt.Errorf("layer %q: %w", as, errdefs.ErrAlreadyExists)
	}
	s.byName[as] = l
	return nil
}

// commitAs does the work of commit. It wants l.mu.
func (s *Store) commitAs(ctx context.Context, l *layer, as string, parent *layer, o CommitOptions) error {
	if err := s.deactivate(ctx, l, returnedNow); err != nil {
		return err
	}
	if s.snapshot(l).Detached && s.able.rebaser != nil {
		if err := s.rebase(ctx, l, parent); err != nil {
			return err
		}
	}
	err := s.sealLocked(ctx, l, s.commitSyncer(ctx, l), func(r *record) {
		r.Name, r.Labels, r.Detached, r.Lent = as, o.Labels, false, false
		if parent != nil {
			r.Parent = s.snapshot(parent).ID
		}
	})
	if err != nil {
		return err
	}
	return s.syncStep()
}

// commitSyncer makes a committed layer's record durable, and with it the content unless that is so already or sealing does
// it. It wants l.mu.
func (s *Store) commitSyncer(ctx context.Context, l *layer) syncer {
	if l.settled || s.able.content != nil || !s.durable() {
		return s.recordSyncer()
	}
	d := s.describe(l)
	return func(path string) error {
		if err := s.syncContent(ctx, d); err != nil || s.journal { // then it was the record's file system, too
			return err
		}
		return syncFile(path)
	}
}

// rebase gives a detached layer its parent, or none. It wants l.mu.
func (s *Store) rebase(ctx context.Context, l, parent *layer) error {
	d := s.describe(l)
	d.Parents = s.chain(parent)
	if err := s.able.rebaser.Rebase(ctx, d); err != nil {
		return fmt.Errorf("rebase: %w", err)
	}
	if s.stepwise() { // else the sync of the record does it: it changed names and attributes only
		l.settled = false
	}
	if err := failpoint.Hit("store.commit.rebased"); err != nil || parent == nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := parent.usable(); err != nil {
		return fmt.Errorf("parent: %w", err)
	}
	l.parent = parent
	parent.children++
	return nil
}

// Link gives a layer, which is sealed by it, another name. Seen from outside it is a child that holds nothing of its
// own: it cannot be written to, and the layer can only be removed after it. Errors and durability as for Create.
func (s *Store) Link(ctx context.Context, name, target string, labels map[string]string) error {
	t, err := s.ready(target)
	if err != nil {
		return fmt.Errorf("link: %w", err)
	}
	return s.create(ctx, name, t, CreateOptions{Labels: labels, IDMap: s.snapshot(t).IDMap}, making{
		link: true,
		fill: func(context.Context, *layer) error { return nil },
		sync: func(context.Context, backend.Layer) error { return nil },
	})
}

// SetLabels replaces the front end's labels of a layer. ErrNotFound, ErrFailedPrecondition (the layer lies in an
// additional store).
func (s *Store) SetLabels(_ context.Context, name string, labels map[string]string) error {
	if err := s.writable(); err != nil {
		return err
	}
	l, err := s.ready(name)
	if err != nil {
		return err
	}
	if l.peer != nil {
		return fmt.Errorf("layer %q lies in the read-only store %s: %w", name, l.peer.root, errdefs.ErrFailedPrecondition)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := s.stillUsable(l); err != nil {
		return err
	}
	if err := s.update(l, func(r *record) { r.Labels = maps.Clone(labels) }); err != nil {
		return fmt.Errorf("label layer %q: %w", name, err)
	}
	return nil
}
