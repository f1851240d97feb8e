package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"strata/backend/internal/mount"
	"strata/backend/store/records"
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
	for _, part := range []func(context.Context) error{
		c.data, c.badRecords, c.strays, c.mountPoints, c.survey, c.foundlings, c.mounts, c.names, c.layers, c.noData,
	} {
		if err := part(ctx); err != nil {
			return nil, fmt.Errorf("check: %w", err)
		}
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

// data finds what the backend keeps without a record.
func (c *checker) data(ctx context.Context) error {
	if c.store.able.lister == nil {
		return nil
	}
	all, alone, err := c.store.unrecorded(ctx)
	if err != nil {
		return err
	}
	c.listed = true
	for _, id := range all {
		c.onDisk[id] = true
	}
	used, err := readUsage()
	if err != nil {
		return err
	}
	for _, id := range alone {
		if c.store.isBad(id) {
			continue
		}
		cure := "strata gc removes it"
		if why := c.store.need(id, used); why != "" {
			cure = "it is kept: " + why
		}
		c.report(FindingMissingMetadata, id, "the backend keeps data under this ID, no record names it; "+cure, "")
	}
	return nil
}

// unrecorded lists the IDs of the backend's data, and of these the ones that no layer has, sorted. What is being made or removed
// meanwhile is not among the latter.
func (s *Store) unrecorded(ctx context.Context) (all, alone []string, err error) {
	if all, err = s.dataIDs(ctx); err != nil {
		return nil, nil, err
	}
	for _, id := range all {
		if !s.known(id) {
			alone = append(alone, id)
		}
	}
	if len(alone) == 0 {
		return all, nil, nil
	}
	again, err := s.dataIDs(ctx) // some may just have been forgotten, after their data was deleted
	if err != nil {
		return nil, nil, err
	}
	alone = slices.DeleteFunc(alone, func(id string) bool { return !slices.Contains(again, id) || s.known(id) })
	slices.Sort(alone)
	return all, alone, nil
}

// dataIDs lists the IDs of the layers that the backend, which is a Lister, has data of.
func (s *Store) dataIDs(ctx context.Context) ([]string, error) {
	ids, err := s.able.lister.List(ctx)
	return ids, s.backendError("list the layers of", err)
}

// survey reports what the backend finds odd in its place.
func (c *checker) survey(ctx context.Context) error {
	if c.store.able.surveyor == nil {
		return nil
	}
	found, err := c.store.able.surveyor.Survey(ctx, c.Repair)
	if err != nil {
		return c.store.backendError("survey", err)
	}
	for _, o := range found {
		c.report(FindingOddity, c.store.nameOf(o.ID), o.Detail, o.Repaired)
	}
	return nil
}

// foundlings tells that there are layers that could be adopted.
func (c *checker) foundlings(ctx context.Context) error {
	if c.store.able.adopter == nil {
		return nil
	}
	found, err := c.store.foundlings(ctx)
	if err == nil && len(found) > 0 {
		c.report(FindingNotice, "", fmt.Sprintf("another program has %d layers beside those of the store, such as %s: strata adopt takes them in",
			len(found), found[0].ID), "")
	}
	return err
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

func (s *Store) isBad(id string) bool { return s.badRecord(id) != nil }

// badRecord returns the bad record of that ID, nil if there is none.
func (s *Store) badRecord(id string) *badRecord {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.bad[id]
}

// mounts finds mounts in the store's directory that it did not make.
func (c *checker) mounts(context.Context) error {
	first, err := c.store.foreignMounts()
	if err != nil || len(first) == 0 {
		return err
	}
	again, err := c.store.foreignMounts() // a layer may just have been forgotten, after it was unmounted
	if err != nil {
		return err
	}
	for _, m := range first {
		if slices.Contains(again, m) {
			c.report(FindingForeignMount, "", fmt.Sprintf("%s is mounted on %s", m.Type, m.Target), "")
		}
	}
	return nil
}

// foreignMounts lists the mounts in the store's directory that belong to no layer.
func (s *Store) foreignMounts() (foreign []mount.Info, err error) {
	dirs, err := s.mountDirs()
	if err != nil {
		return nil, err
	}
	for _, dir := range append(dirs, home(s.cfg.Root, s.meta.Backend)) {
		below, err := mount.Below(dir)
		if err != nil {
			return nil, err
		}
		for _, m := range below {
			in, id := filepath.Dir(m.Target), filepath.Base(m.Target)
			ours := (slices.Contains(dirs, in) || in == s.activePath()) && (s.known(id) || s.isBad(id))
			if !ours && m.Target != dir {
				foreign = append(foreign, m)
			}
		}
	}
	return foreign, nil
}

func (c *checker) layers(ctx context.Context) error {
	layers := c.store.all()
	for i, l := range layers {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := c.layer(ctx, l); err != nil {
			return err
		}
		if c.Progress != nil {
			c.Progress(i+1, len(layers))
		}
	}
	return nil
}

// judge returns a layer's record, and whether somebody is making, filling or removing the layer right now: then nothing can be said about it.
func (s *Store) judge(l *layer) (rec record, busy bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return l.rec, !s.cfg.ReadOnly && (l.gone || l.rec.State == StateCreating || l.rec.State != StateReady && len(l.pins) > 0)
}

// isReady reports whether a layer is ready, and nobody removes it right now.
func (s *Store) isReady(l *layer) bool {
	rec, busy := s.judge(l)
	return !busy && rec.State == StateReady
}

// layer checks one layer against the tree, the disk, the backend, and its digest.
func (c *checker) layer(ctx context.Context, l *layer) error {
	rec, busy := c.store.judge(l)
	switch {
	case busy:
		return nil
	case rec.State != StateReady:
		return c.unfinished(ctx, l, rec)
	}
	if err := c.recordOnDisk(l); err != nil {
		return err
	}
	switch {
	case !c.store.intact(l):
		c.report(FindingMissingParent, rec.Name, c.store.brokenBelow(l), "")
		return nil
	case rec.Link:
		return nil
	case c.listed && !c.onDisk[rec.ID]:
		c.lost = append(c.lost, l)
		return nil
	}
	if err := c.backend(ctx, l); err != nil {
		c.report(FindingBackend, rec.Name, err.Error(), "")
	}
	if rec.Applied == nil || !rec.Applied.Exact {
		return nil
	}
	if c.Deep {
		c.deep(ctx, l, rec)
		return nil
	}
	if _, err := os.Lstat(c.store.logPath(l)); errors.Is(err, os.ErrNotExist) && c.store.isReady(l) {
		c.report(FindingChanged, rec.Name, "its tar log "+c.store.logPath(l)+" is gone, so it cannot be saved or pushed: remove its image, and pull that again", "")
	}
	return nil
}

// backend lets the backend check a layer.
func (c *checker) backend(ctx context.Context, l *layer) error {
	if c.store.able.checker == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !c.store.isReady(l) {
		return nil
	}
	return c.store.able.checker.Check(ctx, c.store.describe(l), c.Repair)
}

// brokenBelow says which layer below is missing, and why.
func (s *Store) brokenBelow(l *layer) string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for l.parent != nil {
		l = l.parent
	}
	id := l.rec.Parent
	switch {
	case s.bad[id] != nil:
		return "it needs layer " + id + ", whose record is damaged: see there"
	case s.byID[id] != nil:
		return fmt.Sprintf("layer %q below it has a record that names as its parent layer %s, which stands on it in turn: "+
			"restore their records from a backup, or remove both", l.rec.Name, id)
	}
	return "it needs layer " + id + ", which has no record: restore layers/" + id + " from a backup, add the store that holds that layer, or remove this one"
}

// unfinished reports a layer that nobody goes on making. Repair removes it if that is still so when its lock is held.
func (c *checker) unfinished(ctx context.Context, l *layer, rec record) error {
	repaired := ""
	if c.Repair {
		removed, err := c.store.removeIf(ctx, l, func() bool { return l.rec.State == StateApplying })
		if err != nil {
			return err
		}
		if removed {
			repaired = "removed"
		} else if again, busy := c.store.judge(l); busy || again.State == StateReady {
			return nil
		}
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
	ids, err := c.store.dataIDs(ctx)
	if err != nil {
		return err
	}
	for _, l := range slices.Backward(c.lost) {
		rec := c.store.snapshot(l)
		if slices.Contains(ids, rec.ID) || !c.store.isReady(l) {
			continue
		}
		if err := c.forget(ctx, rec, l); err != nil {
			return err
		}
	}
	return nil
}

// forget reports a record whose data is gone. Repair removes the record of a layer without children, which nothing mounted uses, and
// keeps its text and its log: the data may be on a disk that is not mounted. If there is no data at all, that is likely, and the record stays.
func (c *checker) forget(ctx context.Context, rec record, l *layer) error {
	detail, repaired := "the backend has no data for ID "+rec.ID, ""
	switch {
	case len(c.onDisk) == 0:
		detail += ", nor for any other: is the disk of " + home(c.store.cfg.Root, c.store.meta.Backend) + " mounted?"
	case c.Repair:
		used, err := readUsage()
		if err != nil {
			return err
		}
		if !used.has(rec.ID) {
			if repaired, err = c.store.giveUpRecord(ctx, l, rec); err != nil {
				return err
			}
		}
	}
	c.report(FindingMissingData, rec.Name, detail, repaired)
	return nil
}

// giveUpRecord removes a layer without data, unless somebody uses it, and keeps what is known of it. It says what it did, "" for nothing.
func (s *Store) giveUpRecord(ctx context.Context, l *layer, rec record) (done string, err error) {
	s.mending.Lock()
	defer s.mending.Unlock()
	kept, err := s.setAside(layersDir, records.FileOf(rec), os.Link)
	if errors.Is(err, fs.ErrNotExist) { // somebody removes it
		return "", nil
	}
	if err != nil {
		return "", err
	}
	files := []string{kept}
	log, err := s.setAside(logsDir, rec.ID, os.Link)
	if err == nil {
		files = append(files, log)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	removed, err := s.removeIf(ctx, l, func() bool { return l.rec.State == StateReady })
	if removed && err == nil {
		return "record removed, and kept in " + strings.Join(files, " and "), nil
	}
	for _, f := range files {
		err = errors.Join(err, os.Remove(f))
	}
	return "", err
}

// deep reads an applied layer and compares it with its digest.
func (c *checker) deep(ctx context.Context, l *layer, rec record) {
	if c.store.cfg.ReadOnly && c.store.able.placer == nil {
		return
	}
	pinned, p, err := c.store.pin(ctx, l)
	if err != nil {
		return // it was removed meanwhile
	}
	defer p.release()
	if err := c.store.replay(pinned, l, io.Discard); err != nil && pinned.Err() == nil && c.store.isReady(l) {
		c.report(FindingChanged, rec.Name, err.Error(), "")
	}
}
