package store

import (
	"context"
	"fmt"
	"slices"

	"strata/backend"
)

// GC lists orphans and, if told to, removes them: data that no record names, and layers that the
// client does not know any more, children first. A layer that is mounted, or that has a child which
// stays, is never an orphan. What a damaged record may need, or somebody uses, is listed with the reason why it stays.
func (s *Store) GC(ctx context.Context, o GCOptions) ([]Orphan, error) {
	if o.Yes {
		if err := s.writable(); err != nil {
			return nil, fmt.Errorf("gc: %w", err)
		}
	}
	if o.Yes {
		if err := s.rereadBad(ctx); err != nil {
			return nil, fmt.Errorf("gc: %w", err)
		}
	}
	orphans, err := s.orphanData(ctx, o.Yes)
	if err != nil {
		return orphans, fmt.Errorf("gc: %w", err)
	}
	odd, err := s.clutter(ctx)
	orphans = append(orphans, odd...)
	if err != nil {
		return orphans, fmt.Errorf("gc: %w", err)
	}
	if o.Known == nil {
		return orphans, nil
	}
	unknown, err := s.unknown(ctx, o)
	if err != nil {
		err = fmt.Errorf("gc: %w", err)
	}
	return append(orphans, unknown...), err
}

// unknown finds layers that the client does not know, children first, and removes them if told to.
func (s *Store) unknown(ctx context.Context, o GCOptions) (orphans []Orphan, err error) {
	doubtful := s.doubtful(ctx)
	layers := s.all()
	slices.Reverse(layers) // children first
	stays := map[*layer]bool{}
	for _, l := range layers {
		s.mu.RLock()
		rec, parent, gone := l.rec, l.parent, l.gone
		s.mu.RUnlock()
		if gone {
			continue
		}
		if o.Known[rec.Name] || o.Listed != nil && !o.Listed[rec.ID] || l.mounted() || stays[l] {
			stays[parent] = true
			continue
		}
		orphan := Orphan{Name: rec.Name, ID: rec.ID, Size: new(int64), Reason: ReasonUnknown}
		if !rec.Link { // a link has nothing of its own
			orphan.Size = s.frees(ctx, s.describe(l))
		}
		why := s.spared(l, doubtful)
		if why == "" && o.Yes {
			if orphan.Removed, err = s.removeIf(ctx, l, func() bool { return l.rec.Name == rec.Name }); err != nil {
				return orphans, err
			}
			if !orphan.Removed {
				if why = s.spared(l, doubtful); why == "" { // it is mounted or has a child by now
					stays[parent] = true
					continue
				}
			}
		}
		if why != "" {
			stays[parent] = true
			orphan.Reason += ", but " + why
		}
		orphans = append(orphans, orphan)
	}
	return orphans, nil
}

// doubtful returns the ID of a bad record that has data, and of which nobody can tell what it stands on, "" if there is none.
func (s *Store) doubtful(ctx context.Context) string {
	for id, has := range s.badData(ctx) {
		if has {
			return id
		}
	}
	return ""
}

// spared says why a layer that the client does not know has to stay, "" for no reason.
func (s *Store) spared(l *layer, doubtful string) string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	switch {
	case l.held > 0:
		return "a damaged record names it as its parent, or may: see strata check"
	case doubtful != "" && l.rec.Sealed:
		return fmt.Sprintf("the damaged record %s may name it as its parent: see strata check", doubtful)
	case s.byID[l.rec.Parent] != nil && l.parent == nil:
		return "it stands on itself: see strata check"
	case len(l.pins) > 0:
		return "a call reads or fills it now"
	}
	return ""
}

// clutter lists what others have put into the backend's place. It is theirs, so GC does not remove it.
func (s *Store) clutter(ctx context.Context) (list []Orphan, err error) {
	if s.able.surveyor == nil {
		return nil, nil
	}
	found, err := s.able.surveyor.Survey(ctx, false)
	for _, o := range found {
		list = append(list, Orphan{Name: s.nameOf(o.ID), ID: o.ID, Reason: o.Detail})
	}
	return list, s.backendError("survey", err)
}

// orphanData finds data that no record names and, if told to, deletes it unless something needs it.
func (s *Store) orphanData(ctx context.Context, yes bool) (orphans []Orphan, err error) {
	if s.able.lister == nil {
		return nil, nil
	}
	_, alone, err := s.unrecorded(ctx)
	if err != nil {
		return nil, err
	}
	for _, id := range alone {
		orphan := Orphan{ID: id, Size: s.frees(ctx, backend.Layer{ID: id}), Reason: "no record names it"}
		bad := s.badRecord(id)
		if bad != nil {
			orphan.Reason = "its record is damaged, and nobody can tell what it said"
		}
		used, err := readUsage() // somebody may have mounted it by now
		if err != nil {
			return orphans, err
		}
		if why := s.need(id, used); why != "" {
			orphan.Reason = "it stays: " + why
		} else if yes {
			if orphan.Removed, err = s.sweepData(ctx, id, bad); err != nil {
				return orphans, err
			}
			if !orphan.Removed {
				continue
			}
		}
		orphans = append(orphans, orphan)
	}
	return orphans, nil
}

// sweepData deletes data that no record names, as that of a removed layer, so that nobody takes it in meanwhile. The text of a
// damaged record is kept. It does nothing if another call has just taken the data in, or deletes it.
func (s *Store) sweepData(ctx context.Context, id string, bad *badRecord) (swept bool, err error) {
	if err := backend.CheckID(id); err != nil {
		return false, fmt.Errorf("the backend listed it: %w", err)
	}
	l := &layer{gone: true, left: true, rec: record{ID: id, Name: id, State: StateRemoving}}
	s.mu.Lock()
	if s.byID[id] != nil {
		s.mu.Unlock()
		return false, nil
	}
	s.byID[id] = l
	s.mu.Unlock()
	if err = s.putAway(bad); err == nil {
		_, err = s.erase(ctx, []*layer{l})
	}
	if err != nil {
		s.mu.Lock()
		delete(s.byID, id)
		s.mu.Unlock()
		return false, err
	}
	if bad != nil {
		s.giveUp(bad)
	}
	return true, nil
}
