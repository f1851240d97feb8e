package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/containerd/errdefs"

	"strata/backend"
	"strata/backend/internal/mount"
)

// Check looks for damage and, if asked, mends it. It may run while the store is in use: layers that
// are being made or removed meanwhile are not reported. Findings are not errors; an error means that
// Check itself could not go on.
func (s *Store) Check(ctx context.Context, o CheckOptions) ([]Finding, error) {
	if o.Repair {
		if err := s.writable(); err != nil {
			return nil, fmt.Errorf("repair: %w", err)
		}
	}
	c := &checker{store: s, CheckOptions: o, onDisk: map[string]bool{}}
	c.badRecords()
	if err := c.data(ctx); err != nil {
		return nil, fmt.Errorf("check: %w", err)
	}
	if err := c.survey(ctx); err != nil {
		return nil, fmt.Errorf("check: %w", err)
	}
	if err := c.mounts(); err != nil {
		return nil, fmt.Errorf("check: %w", err)
	}
	layers := s.all()
	for i, l := range layers {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("check: %w", err)
		}
		if err := c.layer(ctx, l); err != nil {
			return nil, fmt.Errorf("check: %w", err)
		}
		if o.Progress != nil {
			o.Progress(i+1, len(layers))
		}
	}
	if err := c.noData(ctx); err != nil {
		return nil, fmt.Errorf("check: %w", err)
	}
	return c.found, nil
}

// all returns our own layers, parents first.
func (s *Store) all() []*layer {
	s.mu.RLock()
	defer s.mu.RUnlock()
	layers := make([]*layer, 0, len(s.byID))
	for _, l := range s.byID {
		layers = append(layers, l)
	}
	sort.Slice(layers, func(i, j int) bool {
		if d := depth(layers[i]) - depth(layers[j]); d != 0 {
			return d < 0
		}
		return layers[i].rec.Name < layers[j].rec.Name
	})
	return layers
}

type checker struct {
	CheckOptions
	store  *Store
	found  []Finding
	listed bool            // onDisk is complete
	onDisk map[string]bool // IDs of the backend's data
	lost   []*layer        // had no data when onDisk was listed, perhaps because they did not exist yet
}

func (c *checker) report(kind FindingKind, layer, detail, repaired string) {
	c.found = append(c.found, Finding{Kind: kind, Layer: layer, Detail: detail, Repaired: repaired})
}

func (c *checker) badRecords() {
	for _, b := range c.store.bad {
		c.report(FindingBadRecord, b.id, b.err.Error()+"; the layer's data, if any, is kept: strata gc lists it", "")
	}
}

// data finds what the backend keeps without a record.
func (c *checker) data(ctx context.Context) error {
	if c.store.able.lister == nil {
		return nil
	}
	ids, err := c.store.able.lister.List(ctx)
	if err != nil {
		return err
	}
	c.listed = true
	var alone []string
	for _, id := range ids {
		c.onDisk[id] = true
		if !c.store.known(id) && !c.isBad(id) {
			alone = append(alone, id)
		}
	}
	if len(alone) == 0 {
		return nil
	}
	if ids, err = c.store.able.lister.List(ctx); err != nil { // some may have been removed meanwhile
		return err
	}
	slices.Sort(ids)
	for _, id := range ids {
		if slices.Contains(alone, id) {
			c.report(FindingMissingMetadata, id, "the backend keeps data under this ID, no record names it; strata gc removes it", "")
		}
	}
	return nil
}

// survey reports what the backend finds odd in its place.
func (c *checker) survey(ctx context.Context) error {
	if c.store.able.surveyor == nil {
		return nil
	}
	found, err := c.store.able.surveyor.Survey(ctx, c.Repair)
	if err != nil {
		return err
	}
	for _, o := range found {
		kind := FindingOddity
		if o.Notice {
			kind = FindingNotice
		}
		c.report(kind, c.store.nameOf(o.ID), o.Detail, o.Repaired)
	}
	return nil
}

// nameOf returns the name of the layer with that ID, or the ID if there is none.
func (s *Store) nameOf(id string) string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if l := s.byID[id]; l != nil {
		return l.rec.Name
	}
	return id
}

// known reports whether a layer with this ID is in the tree.
func (s *Store) known(id string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.byID[id] != nil
}

func (c *checker) isBad(id string) bool {
	return slices.ContainsFunc(c.store.bad, func(b badRecord) bool { return b.id == id })
}

// mounts finds mounts in the store's directory that it did not make.
func (c *checker) mounts() error {
	s := c.store
	dirs := []string{s.cfg.MountDir, home(s.cfg.Root, s.meta.Backend)}
	for _, dir := range dirs {
		below, err := mount.Below(dir)
		if err != nil {
			return err
		}
		for _, m := range below {
			in := filepath.Dir(m.Target)
			ours := (in == s.cfg.MountDir || in == s.activePath()) && s.known(filepath.Base(m.Target))
			if !ours && m.Target != dir {
				c.report(FindingForeignMount, "", fmt.Sprintf("%s is mounted on %s", m.Type, m.Target), "")
			}
		}
	}
	return nil
}

// layer checks one layer against the tree, the disk, the backend, and its digest.
func (c *checker) layer(ctx context.Context, l *layer) error {
	rec := c.store.snapshot(l)
	busy := c.busy(l)
	switch {
	case rec.State != StateReady && !busy:
		return c.unfinished(ctx, rec)
	case busy:
		return nil
	case rec.Parent != "" && c.store.parentOf(l) == nil:
		c.report(FindingMissingParent, rec.Name, "its parent "+rec.Parent+" is gone: remove the layer, or add the store that holds the parent", "")
		return nil
	case rec.Link:
		return nil
	case c.listed && !c.onDisk[rec.ID]:
		c.lost = append(c.lost, l)
		return nil
	}
	if ck := c.store.able.checker; ck != nil {
		l.mu.Lock()
		err := ck.Check(ctx, c.store.describe(l), c.Repair)
		l.mu.Unlock()
		if err != nil {
			c.report(FindingBackend, rec.Name, err.Error(), "")
		}
	}
	if c.Deep {
		c.deep(ctx, l, rec)
	}
	return nil
}

// busy reports whether somebody is making, filling or removing the layer right now.
func (c *checker) busy(l *layer) bool {
	if c.store.cfg.ReadOnly {
		return false
	}
	c.store.mu.RLock()
	defer c.store.mu.RUnlock()
	return l.gone || l.rec.State == StateCreating || len(l.pins) > 0 && l.rec.State != StateReady
}

func (c *checker) unfinished(ctx context.Context, rec record) error {
	repaired := ""
	if c.Repair {
		if err := c.store.Remove(ctx, rec.Name); err != nil {
			return err
		}
		repaired = "removed"
	}
	c.report(FindingUnfinished, rec.Name, "the layer was left "+string(rec.State)+"; it can only be removed", repaired)
	return nil
}

// noData asks the backend again for layers that may have been made after the first list, and reports
// those whose data is gone, children first.
func (c *checker) noData(ctx context.Context) error {
	if len(c.lost) == 0 {
		return nil
	}
	ids, err := c.store.able.lister.List(ctx)
	if err != nil {
		return err
	}
	for _, l := range slices.Backward(c.lost) {
		rec := c.store.snapshot(l)
		if slices.Contains(ids, rec.ID) || c.busy(l) {
			continue
		}
		if err := c.forget(ctx, rec, l); err != nil {
			return err
		}
	}
	return nil
}

// forget reports a record whose data is gone. The record of a layer without children says nothing
// that could still be of use, so Repair removes it.
func (c *checker) forget(ctx context.Context, rec record, l *layer) error {
	repaired := ""
	c.store.mu.RLock()
	children := l.children
	c.store.mu.RUnlock()
	if c.Repair && children == 0 {
		if err := c.store.Remove(ctx, rec.Name); err != nil {
			return err
		}
		repaired = "record removed"
	}
	c.report(FindingMissingData, rec.Name, "the backend has no data for ID "+rec.ID, repaired)
	return nil
}

// deep reads an applied layer and compares it with its digest.
func (c *checker) deep(ctx context.Context, l *layer, rec record) {
	if rec.Applied == nil || !rec.Applied.Exact || c.store.cfg.ReadOnly && c.store.able.placer == nil {
		return
	}
	pinned, release, err := c.store.pin(ctx, l)
	if err != nil {
		return // it was removed meanwhile
	}
	defer release()
	if err := c.store.replay(pinned, l, io.Discard); err != nil && pinned.Err() == nil {
		c.report(FindingChanged, rec.Name, err.Error(), "")
	}
}

// GC lists orphans and, if told to, removes them: data that no record names, and layers that the
// client does not know any more, children first. A layer that is mounted, or that has a child which
// stays, is never an orphan.
func (s *Store) GC(ctx context.Context, o GCOptions) ([]Orphan, error) {
	if o.Yes {
		if err := s.writable(); err != nil {
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
		if o.Known[rec.Name] || l.count.Load() > 0 || stays[l] {
			stays[parent] = true
			continue
		}
		orphan := Orphan{Name: rec.Name, ID: rec.ID, Reason: "the client does not know it"}
		if o.Yes {
			if err := s.Remove(ctx, rec.Name); err != nil {
				return orphans, fmt.Errorf("gc: %w", err)
			}
			orphan.Removed = true
		}
		orphans = append(orphans, orphan)
	}
	return orphans, nil
}

// clutter lists what others have put into the backend's place. It is theirs, so GC does not remove it.
func (s *Store) clutter(ctx context.Context) (list []Orphan, err error) {
	if s.able.surveyor == nil {
		return nil, nil
	}
	found, err := s.able.surveyor.Survey(ctx, false)
	for _, o := range found {
		if !o.Notice {
			list = append(list, Orphan{Name: s.nameOf(o.ID), ID: o.ID, Reason: o.Detail})
		}
	}
	return list, err
}

// orphanData finds data that no record names and, if told to, deletes it.
func (s *Store) orphanData(ctx context.Context, yes bool) (orphans []Orphan, err error) {
	if s.able.lister == nil {
		return nil, nil
	}
	ids, err := s.able.lister.List(ctx)
	if err != nil {
		return nil, err
	}
	slices.Sort(ids)
	for _, id := range ids {
		if s.known(id) {
			continue
		}
		orphan := Orphan{ID: id, Reason: "no record names it"}
		if yes {
			if err := s.backend.Remove(ctx, backend.Layer{ID: id}); err != nil {
				return orphans, err
			}
			if err := s.forgetBad(id); err != nil {
				return orphans, err
			}
			orphan.Removed = true
		}
		orphans = append(orphans, orphan)
	}
	return orphans, nil
}

// forgetBad removes the unreadable record of a layer whose data is gone, and its log.
func (s *Store) forgetBad(id string) error {
	s.mu.Lock()
	s.bad = slices.DeleteFunc(s.bad, func(b badRecord) bool { return b.id == id })
	s.mu.Unlock()
	if strings.ContainsRune(id, filepath.Separator) {
		return fmt.Errorf("backend listed the ID %q: %w", id, errdefs.ErrInternal)
	}
	for _, path := range []string{s.path(logsDir, id), s.path(layersDir, id)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
