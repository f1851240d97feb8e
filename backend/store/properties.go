package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"strata/backend"
	"strata/backend/internal/failpoint"
	"strata/backend/internal/idmap"
	"strata/backend/internal/tree"
)

// Usage returns what the layer itself occupies on disk.
func (s *Store) Usage(ctx context.Context, name string) (u backend.Usage, err error) {
	l, err := s.ready(name)
	if err != nil {
		return u, err
	}
	ctx, release, err := s.pin(ctx, l)
	if err != nil {
		return u, err
	}
	defer release()
	if s.able.meter != nil {
		u, err = s.able.meter.Usage(ctx, s.describe(l))
	} else {
		u, err = s.walkUsage(ctx, l)
	}
	if err != nil {
		return u, fmt.Errorf("usage of layer %q: %w", name, err)
	}
	return u, nil
}

func (s *Store) walkUsage(ctx context.Context, l *layer) (u backend.Usage, err error) {
	dir, release, err := s.files(ctx, l)
	if err != nil {
		return u, err
	}
	defer func() { err = errors.Join(err, release()) }()
	return tree.Usage(ctx, dir)
}

// SetLimit changes how many bytes the layer may grow to, 0 for no limit. ErrNotImplemented if the
// backend has no limits.
func (s *Store) SetLimit(ctx context.Context, name string, bytes int64) error {
	if err := s.writable(); err != nil {
		return err
	}
	l, err := s.ready(name)
	if err != nil {
		return err
	}
	switch {
	case bytes < 0:
		return fmt.Errorf("limit of %d bytes: %w", bytes, errdefs.ErrInvalidArgument)
	case s.able.limiter == nil:
		return fmt.Errorf("layer %q: backend %s keeps no limits: %w", name, s.meta.Backend, errdefs.ErrNotImplemented)
	case l.peer != nil:
		return fmt.Errorf("layer %q lies in the read-only store %s: %w", name, l.peer.root, errdefs.ErrFailedPrecondition)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := s.able.limiter.SetLimit(ctx, s.describe(l), bytes); err != nil {
		return fmt.Errorf("limit layer %q: %w", name, err)
	}
	return s.update(l, func(r *record) { r.Limit = bytes })
}

// SetIDMap changes how the owners in a layer are stored: files that the old map stores as the
// container's root become the new map's root, and so on. The layer must be unsealed and not
// mounted. A SetIDMap that fails or is cut off leaves a layer that can only be removed.
func (s *Store) SetIDMap(ctx context.Context, name string, m *backend.IDMap) error {
	l, err := s.ready(name)
	if err != nil {
		return err
	}
	if err := s.beginApply(l, false); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	d := s.describe(l)
	from := d.IDMap
	d.IDMap = m
	if err := s.mapOwners(ctx, d, from); err != nil {
		return fmt.Errorf("map owners of layer %q: %w", name, err)
	}
	if err := failpoint.Hit("store.setidmap.mapped"); err != nil {
		return err
	}
	if s.durable() {
		if err := s.syncHome(ctx); err != nil {
			return err
		}
	}
	return s.update(l, func(r *record) { r.IDMap, r.State = m, StateReady })
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
	dir, err := s.mountAlone(ctx, d)
	if err != nil {
		return err
	}
	return errors.Join(chown(dir), s.detach(context.WithoutCancel(ctx), d, dir))
}
