package store

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"strata/backend"
	"strata/backend/internal/idmap"
	"strata/backend/internal/tree"
)

// Usage returns what the layer itself occupies on disk. For a link that is what the layer occupies whose name it is.
func (s *Store) Usage(ctx context.Context, name string) (u backend.Usage, err error) {
	ctx, l, err := s.pinReady(ctx, name)
	if err != nil {
		return u, err
	}
	defer l.release()
	if s.able.meter != nil {
		u, err = s.able.meter.Usage(ctx, s.describe(l.layer))
	} else {
		u, err = s.walkUsage(ctx, l.layer)
	}
	return u, s.layerError("measure", l.layer, interrupted(ctx, err))
}

func (s *Store) walkUsage(ctx context.Context, l *layer) (u backend.Usage, err error) {
	at, release, err := s.files(ctx, l)
	if err != nil {
		return u, err
	}
	defer func() { err = errors.Join(err, release()) }()
	return tree.Usage(ctx, at.Dir)
}

// SetLimit changes how many bytes the layer may grow to, 0 for no limit. ErrNotImplemented if the
// backend has no limits.
func (s *Store) SetLimit(ctx context.Context, name string, bytes int64) error {
	if err := s.writable(); err != nil {
		return err
	}
	l, _, err := s.holdReady(ctx, name)
	if err != nil {
		return err
	}
	defer l.mu.Unlock()
	switch {
	case bytes < 0:
		return fmt.Errorf("limit of %d bytes: %w", bytes, errdefs.ErrInvalidArgument)
	case s.able.limiter == nil:
		return fmt.Errorf("layer %q: backend %s keeps no limits: %w", name, s.meta.Backend, errdefs.ErrNotImplemented)
	case l.peer != nil:
		return fmt.Errorf("layer %q lies in the read-only store %s: %w", name, l.peer.root, errdefs.ErrFailedPrecondition)
	case l.link:
		return fmt.Errorf("layer %q is another name of a sealed layer: %w", name, errdefs.ErrFailedPrecondition)
	}
	if err := s.able.limiter.SetLimit(ctx, s.describe(l), bytes); err != nil {
		return s.layerError("limit", l, err)
	}
	return s.update(l, func(r *record) { r.Limit = bytes })
}

// SetIDMap changes how the owners in a layer are stored: files that the old map stores as the
// container's root become the new map's root, and so on. The layer must be unsealed and not
// mounted. Owners are changed in a copy, which then takes the layer's place under an ID of its own:
// a SetIDMap that fails or is cut off leaves the layer as it was. ErrNotFound, ErrFailedPrecondition,
// ErrInvalidArgument (no map; an owner without a place in one of the maps), ErrNotImplemented (Cloner).
func (s *Store) SetIDMap(ctx context.Context, name string, m *backend.IDMap) error {
	if err := m.Check(); err != nil {
		return fmt.Errorf("map owners of layer %q: %w", name, err)
	}
	l, err := s.hold(ctx, name)
	if err != nil {
		return err
	}
	defer l.mu.Unlock()
	if s.able.cloner == nil {
		return fmt.Errorf("map owners of layer %q: backend %s cannot copy layers: %w", name, s.meta.Backend, errdefs.ErrNotImplemented)
	}
	if err := s.writable(); err != nil {
		return err
	}
	if err := s.unused(l); err != nil {
		return err
	}
	rec := s.snapshot(l)
	from, old := rec.IDMap, rec.ID
	rec.ID, rec.Replaces, rec.IDMap, rec.State, rec.Draft = newID(), old, m, StateCreating, false
	n := &layer{parent: l.parent, rec: rec, fresh: l.fresh, content: l.content}
	n.mu.Lock()
	defer n.mu.Unlock()
	s.mu.Lock()
	s.graft(n)
	s.mu.Unlock()
	copied := func(ctx context.Context, n *layer) error {
		d := s.describe(n)
		d.IDMap = from
		if err := s.able.cloner.Clone(ctx, d, s.describe(l)); err != nil || from.Equal(m) {
			return err
		}
		d.IDMap = m
		return s.mapOwners(ctx, d, from)
	}
	if err := s.build(ctx, n, making{fill: copied, sync: s.sync.content}); err != nil {
		return errors.Join(s.layerError("map owners of", l, err), s.abandon(n))
	}
	return s.replace(l, n)
}

// replace gives a layer's name to another one that is just like it, and removes it. Whoever reads it can go on. It wants both
// layers' mu.
func (s *Store) replace(old, l *layer) error {
	s.mu.Lock()
	s.byName[l.rec.Name] = l
	old.gone = true
	old.rec.State = StateRemoving
	leaving := old.leave()
	s.mu.Unlock()
	err := s.markGone(old) // if it fails, Open will know from the new one's record
	s.deleter.add(leaving...)
	return err
}

// mapRoot gives the root directory of a new base layer to the container's root.
func (s *Store) mapRoot(ctx context.Context, d backend.Layer) error {
	if d.IDMap == nil {
		return nil
	}
	uid, gid, err := d.IDMap.Root()
	if err != nil {
		return err
	}
	p, release, err := s.place(ctx, d)
	if err != nil {
		return err
	}
	return errors.Join(os.Chown(p.Dir, int(uid), int(gid)), release())
}

// mapOwners changes the owners that a layer shows from the map from to d.IDMap.
func (s *Store) mapOwners(ctx context.Context, d backend.Layer, from *backend.IDMap) (err error) {
	chown := func(dir string) error { return idmap.Chown(ctx, dir, from, d.IDMap) }
	if s.able.idMapper != nil && s.able.placer != nil {
		err := s.able.idMapper.MapIDs(ctx, d)
		if err == nil {
			p, err := s.able.placer.Place(ctx, d)
			if err != nil {
				return err
			}
			return chown(p.Dir)
		}
		if !errdefs.IsNotImplemented(err) {
			return err
		}
		log.G(ctx).WithError(err).WithField("layer", d.ID).Info("changing the owner of every file instead")
	}
	dir, release, err := s.mountAlone(ctx, d)
	if err != nil {
		return err
	}
	return errors.Join(chown(dir), release())
}
