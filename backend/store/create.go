package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/errdefs"

	"strata/backend"
	"strata/backend/internal/failpoint"
	"strata/backend/internal/layertar/unpack"
	"strata/backend/store/records"
)

// Create makes a layer, writable until it is sealed by its first child or by Apply. parent "" makes
// a base layer. The layer survives a power cut once Create returned; one that was cut off leaves nothing
// or the whole layer. ErrAlreadyExists, ErrNotFound (parent), ErrInvalidArgument, ErrNotImplemented (limit).
func (s *Store) Create(ctx context.Context, name, parent string, o CreateOptions) error {
	if parent != "" {
		if _, err := s.ready(ctx, parent); err != nil {
			return fmt.Errorf("parent: %w", err)
		}
	}
	if err := s.creatable(name, parent != "", o); err != nil {
		return err
	}
	var p *layer
	if parent != "" {
		var err error
		if p, err = s.sealed(ctx, parent); err != nil {
			return fmt.Errorf("parent: %w", err)
		}
	}
	return s.create(ctx, name, p, o, making{sync: s.sync.created, fill: func(ctx context.Context, l *layer) error {
		l.fresh = true
		return s.makeEmpty(ctx, s.describe(l))
	}})
}

// Clone makes a layer with the same parent and content as template, which is sealed by it. Errors
// and durability as for Create.
func (s *Store) Clone(ctx context.Context, name, template string, o CreateOptions) error {
	if _, err := s.ready(ctx, template); err != nil {
		return fmt.Errorf("template: %w", err)
	}
	if err := s.creatable(name, false, o); err != nil {
		return err
	}
	if _, err := s.sealed(ctx, template); err != nil {
		return fmt.Errorf("template: %w", err)
	}
	ctx, pinned, err := s.pinReady(ctx, template)
	if err != nil {
		return fmt.Errorf("template: %w", err)
	}
	defer pinned.release()
	t := pinned.data()
	if o.IDMap == nil {
		o.IDMap = s.snapshot(t).IDMap
	}
	err = s.create(ctx, name, t.parent, o, making{kept: true, sync: s.sync.content, fill: func(ctx context.Context, l *layer) error {
		return s.copyInto(ctx, s.describe(l), t)
	}})
	return interrupted(ctx, err)
}

// makeEmpty makes a layer that shows what its parent shows, to the containers of its own ID map.
func (s *Store) makeEmpty(ctx context.Context, d backend.Layer) error {
	if err := s.backend.Create(ctx, d); err != nil {
		return err
	}
	switch {
	case len(d.Parents) == 0:
		return s.mapRoot(ctx, d)
	case d.IDMap.Equal(d.Parents[0].IDMap):
		return nil
	}
	return s.mapOwners(ctx, d, d.Parents[0].IDMap)
}

// copyInto makes the layer d as a copy of the template.
func (s *Store) copyInto(ctx context.Context, d backend.Layer, template *layer) error {
	from := s.describe(template)
	if s.able.cloner != nil && d.IDMap.Equal(from.IDMap) {
		return s.able.cloner.Clone(ctx, d, from)
	}
	if err := s.makeEmpty(ctx, d); err != nil {
		return err
	}
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		own := &pairing{layer: template, parent: s.parentOf(template), direct: true}
		w.CloseWithError(s.writeDiff(ctx, own, w))
	}()
	_, err := s.unpack(ctx, d, r, unpack.Options{})
	r.CloseWithError(io.ErrClosedPipe) // ends the writer if unpack gave up
	<-done
	return err
}

// making is how a layer is made.
type making struct {
	fill func(context.Context, *layer) error        // makes the data
	sync func(context.Context, backend.Layer) error // makes it durable
	link bool                                       // there is none: the layer is another name of its parent
	kept bool                                       // a child keeps the parent, whether its client still knows it or not
}

// creatable returns an error if a layer cannot be made so, before another one is sealed for it.
func (s *Store) creatable(name string, child bool, o CreateOptions) error {
	if err := s.writable(); err != nil {
		return err
	}
	if err := o.IDMap.Check(); err != nil {
		return fmt.Errorf("layer %q: %w", name, err)
	}
	if o.Limit < 0 {
		return fmt.Errorf("layer %q: limit of %d bytes: %w", name, o.Limit, errdefs.ErrInvalidArgument)
	}
	if o.Detached && child {
		return fmt.Errorf("layer %q: detached, and a child of a layer: %w", name, errdefs.ErrInvalidArgument)
	}
	if o.Limit > 0 && s.able.limiter == nil {
		return fmt.Errorf("layer %q: limit of %d bytes: backend %s keeps no limits: %w", name, o.Limit, s.meta.Backend, errdefs.ErrNotImplemented)
	}
	if err := checkLabels(o.Labels); err != nil {
		return fmt.Errorf("layer %q: %w", name, err)
	}
	return s.free(name)
}

// create does what Create, Clone and Link share, after creatable.
func (s *Store) create(ctx context.Context, name string, parent *layer, o CreateOptions, m making) error {
	l, err := s.reserve(name, parent, o, m)
	if err != nil {
		return err
	}
	defer l.mu.Unlock()
	if o.Draft {
		s.draft(l)
	}
	if err := s.build(ctx, l, m); err != nil {
		return errors.Join(s.layerError("create", l, err), s.abandon(l))
	}
	return nil
}

// free returns an error if the name cannot be given to a new layer now.
func (s *Store) free(name string) error {
	if err := records.CheckName(name); err != nil {
		return err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.byName[name] != nil {
		return fmt.Errorf("layer %q: %w", name, errdefs.ErrAlreadyExists)
	}
	return nil
}

// reserve puts a new layer, locked and in state creating, into the tree.
func (s *Store) reserve(name string, parent *layer, o CreateOptions, m making) (*layer, error) {
	l := &layer{parent: parent, link: m.link, rec: record{
		ID: newID(), Name: name, State: StateCreating, Created: time.Now().UTC(), Sealed: m.link,
		Limit: o.Limit, Label: o.Label, IDMap: o.IDMap, Labels: o.Labels, Detached: o.Detached, Link: m.link,
	}}
	if l.rec.IDMap == nil {
		l.rec.IDMap = s.cfg.IDMap
	}
	l.mu.Lock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.byName[name]; old != nil {
		l.mu.Unlock()
		return nil, fmt.Errorf("layer %q: %w", name, errdefs.ErrAlreadyExists)
	}
	if parent != nil {
		judge := parent.usable
		if m.kept {
			judge = parent.readable
		}
		if err := judge(); err != nil {
			l.mu.Unlock()
			return nil, fmt.Errorf("parent: %w", err)
		}
		l.rec.Parent = parent.rec.ID
	}
	s.byName[name] = l
	s.graft(l)
	return l, nil
}

// graft puts a new layer into the tree. It wants Store.mu.
func (s *Store) graft(l *layer) {
	if l.parent != nil {
		l.parent.children++
	}
	s.byID[l.rec.ID] = l
}

// build writes the intent, makes the data, and writes the outcome.
func (s *Store) build(ctx context.Context, l *layer, m making) error {
	if err := s.records.Intend(l.rec, s.sync.intent()); err != nil {
		return err
	}
	if err := failpoint.Hit("store.create.intended"); err != nil {
		return err
	}
	if err := m.fill(ctx, l); err != nil {
		return err
	}
	if err := failpoint.Hit("store.create.filled"); err != nil {
		return err
	}
	sync := s.sync.record()
	if l.rec.Draft {
		sync = nil
	} else if err := m.sync(ctx, s.describe(l)); err != nil {
		return err
	}
	if err := failpoint.Hit("store.create.synced"); err != nil {
		return err
	}
	rec := l.rec
	rec.State = StateReady
	if err := s.records.Publish(rec, sync); err != nil {
		return err
	}
	if err := failpoint.Hit("store.create.named"); err != nil {
		return err
	}
	if err := s.sync.step(); err != nil {
		return err
	}
	s.setRecord(l, rec)
	return nil
}

// draft marks a new layer as expendable until it is sealed. That is allowed only if the later sync of its record also
// persists its creation.
func (s *Store) draft(l *layer) {
	if !s.sync.expendable(s.describe(l)) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l.rec.Draft = true
}

// abandon removes an unsuccessful create's layer. It wants l.mu.
func (s *Store) abandon(l *layer) error {
	s.mu.Lock()
	l.gone = true
	l.rec.State = StateRemoving
	s.unname(l)
	leaving := l.leave()
	s.mu.Unlock()
	err := s.markGone(l)
	s.deleter.add(leaving...)
	return err
}

// sealed returns the layer that has a name, which it makes read-only for ever, for the sake of a child: it is durable when the
// child is. A layer of an additional store is sealed already. Errors are those of ready.
func (s *Store) sealed(ctx context.Context, name string) (*layer, error) {
	l, err := s.ready(ctx, name)
	if err != nil || s.snapshot(l).Sealed {
		return l, err
	}
	if l, err = s.hold(ctx, name); err != nil {
		return nil, err
	}
	defer l.mu.Unlock()
	return l, s.seal(ctx, l)
}

// seal does the work of sealed. It wants l.mu.
func (s *Store) seal(ctx context.Context, l *layer) error {
	rec, err := s.stillUsable(l)
	if err != nil || rec.Sealed {
		return err
	}
	return s.layerError("seal", l, s.sealLocked(ctx, l, s.sync.record(), func(*record) {}))
}

// sealLocked seals a layer and makes another change to its record with it. A power cut may undo both
// until the next call of durability.step. It wants l.mu.
func (s *Store) sealLocked(ctx context.Context, l *layer, sync records.Syncer, change func(*record)) error {
	if !s.snapshot(l).Sealed && s.able.sealer != nil {
		if err := s.able.sealer.Seal(ctx, s.describe(l)); err != nil {
			return err
		}
		if err := failpoint.Hit("store.seal.sealed"); err != nil {
			return err
		}
	}
	return s.rewrite(l, sync, func(r *record) {
		r.Sealed, r.Draft = true, false
		change(r)
	})
}
