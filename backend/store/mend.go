package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"strata/backend"
	"strata/backend/internal/layertar/tarlog"
	"strata/backend/internal/mount"
	"strata/backend/store/records"
)

// badRecords reports records that cannot be used. Repair mends those of which it is known what they said, and moves those away to
// which nothing belongs.
func (c *checker) badRecords(ctx context.Context) error {
	if c.Repair {
		if err := c.store.rereadBad(ctx); err != nil {
			return err
		}
	}
	for _, b := range c.store.badRecords() {
		used, err := readUsage()
		if err != nil {
			return err
		}
		detail, repaired := c.store.describeBad(b, c.listed && !c.onDisk[b.ID]), ""
		if c.Repair {
			if repaired, err = c.store.mend(ctx, b, c.listed && !c.onDisk[b.ID] && !used.has(b.ID)); err != nil {
				return fmt.Errorf("mend record %s: %w", b.File, err)
			}
		}
		if repaired != "" || c.store.isBad(b.ID) {
			c.report(FindingBadRecord, b.ID, detail, repaired)
		}
	}
	return nil
}

// describeBad says what is wrong with a record, what depends on it, and what can be done.
func (s *Store) describeBad(b *badRecord, noData bool) string {
	switch _, now := s.records.Reread(b.File, b.ID); {
	case now == nil:
		return "the record is whole again: --repair, or the next start, takes its layer back; when the store was opened: " + b.Err.Error()
	case errors.Is(now.Err, fs.ErrNotExist):
		return "the record is gone: --repair, or the next start, forgets it; when the store was opened: " + b.Err.Error()
	}
	detail := b.Err.Error()
	s.mu.RLock()
	names := s.namers(b.ID)
	s.mu.RUnlock()
	if len(names) > 0 {
		detail += "; it is the parent of " + enumerate(names)
	}
	switch {
	case b.How != "":
		return detail + fmt.Sprintf("; %s: it is layer %q, and --repair mends it", b.How, b.Says.Name)
	case b.lost:
		return detail + fmt.Sprintf("; it and its data are left alone: its text says that it is layer %q, above layer %s, which is not there, so that is damaged, too: "+
			"restore the record from a backup", b.Says.Name, b.Says.Parent)
	case b.Says != nil:
		return detail + "; it and its data are left alone: use the version of strata that wrote it"
	case len(names) == 0 && noData:
		return detail + "; nothing belongs to it: --repair moves it away"
	case b.Of != "":
		return detail + fmt.Sprintf("; it is the record of layer %s, whole, and is left alone with the data: give it the name %s, and the one that is there, if any, "+
			"the name of its own layer, and repeat --repair", b.Of, s.records.Path(b.Of))
	}
	if log, err := tarlog.Open(s.path(logsDir, b.ID)); err == nil {
		detail += "; it was filled from the tar " + log.Digest()
		_ = log.Close() // nothing was written
	}
	giveUp := "give the layer up: once nothing stands on it, strata gc --yes removes it"
	if !errdefs.IsDataLoss(b.Err) { // gc removes what is no record of ours as little as its data
		giveUp = "give the layer up: take that away, and once nothing stands on the layer strata gc --yes removes its data"
	}
	return detail + "; its name and its parent cannot be told, so it and its data are left alone: restore the record from a backup, or " + giveUp
}

// mend puts a damaged record right, or moves one away to which nothing belongs, and says what it did, "" for nothing. The damaged text
// is kept.
func (s *Store) mend(ctx context.Context, b *badRecord, alone bool) (done string, err error) {
	s.mending.Lock()
	defer s.mending.Unlock()
	s.mu.RLock()
	there, needed := s.bad[b.ID] == b, len(s.namers(b.ID)) > 0
	s.mu.RUnlock()
	switch {
	case !there:
		return "", nil
	case b.How != "":
		return s.rewriteBad(ctx, b)
	case b.Says != nil || needed || !alone:
		return "", nil
	}
	kept, err := s.setAside(layersDir, b.File, os.Rename)
	if err != nil {
		return "", err
	}
	s.giveUp(b)
	return "moved to " + kept, nil
}

// rewriteBad writes what a damaged record said, and takes its layer into the tree. It wants Store.mending.
func (s *Store) rewriteBad(ctx context.Context, b *badRecord) (done string, err error) {
	kept, err := s.writeAnew(b.File, *b.Says)
	if err != nil {
		return "", err
	}
	if err := s.takeBack(ctx, b, *b.Says); err != nil {
		return "", err
	}
	return fmt.Sprintf("layer %q is back; the damaged text is in %s", b.Says.Name, kept), nil
}

// takeBack puts the layer of a record that was bad where Open would have put it. It wants Store.mending.
func (s *Store) takeBack(ctx context.Context, b *badRecord, rec record) error {
	l := &layer{rec: rec, link: rec.Link}
	if _, state := records.Parse(b.File); state == StateRemoving || state == StateApplying || l.rec.State != StateReady {
		l.gone, l.rec.State = true, StateRemoving
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	point := s.mountPoint(l)
	mounted, err := mount.Mounted(point)
	if err != nil {
		return err
	}
	if mounted && !l.gone {
		l.count.Store(1)
		s.gates.mu.Lock()
		s.recallGate(l, filepath.Dir(point))
		s.gates.mu.Unlock()
	}
	s.mu.Lock()
	delete(s.bad, b.ID)
	s.byID[b.ID] = l
	s.regraft(l)
	if l.gone {
		l.children++ // so that letGo does not let it leave before it counts
	} else if s.byName[l.rec.Name] == nil {
		s.byName[l.rec.Name] = l
	}
	leaving := b.letGo()
	if l.gone {
		l.children--
		leaving = append(leaving, l.leave()...)
	}
	s.mu.Unlock()
	s.deleter.add(leaving...)
	if l.count.Load() > 0 {
		err = s.activate(ctx, l, mountedNow)
	}
	if l.rec.Lent && !l.gone {
		err = errors.Join(err, s.activate(ctx, l, lentNow))
	}
	return err
}

// regraft links a layer with its parent and with the layers that have missed it. It wants Store.mu.
func (s *Store) regraft(l *layer) {
	for _, child := range s.byID {
		if child != l && child.rec.Parent == l.rec.ID && child.parent == nil {
			child.parent = l
			l.children++
		}
	}
	for _, other := range s.bad {
		if other.Says != nil && other.Says.Parent == l.rec.ID {
			other.hold(l)
		}
	}
	parent := s.below(l)
	for p := parent; p != nil; p = p.parent {
		if p == l {
			return // it stands on itself
		}
	}
	if l.parent = parent; parent != nil {
		parent.children++
	}
}

// putAway keeps the text of a bad record, nil for none, whose data is about to be deleted.
func (s *Store) putAway(b *badRecord) error {
	if b == nil {
		return nil
	}
	s.mending.Lock()
	defer s.mending.Unlock()
	_, err := s.setAside(layersDir, b.File, os.Rename)
	if errors.Is(err, fs.ErrNotExist) { // by an earlier try
		return nil
	}
	return err
}

// setAside gives what lies in dir a name in damaged/ that nothing has, by os.Link another one, by os.Rename instead of its own.
// It wants Store.mending.
func (s *Store) setAside(dir, name string, how func(from, to string) error) (path string, err error) {
	if err := os.Mkdir(s.path(damagedDir), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	path = s.path(damagedDir, dir+"-"+name)
	for n := 2; ; n++ {
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			break
		} else if err != nil {
			return "", err
		}
		path = s.path(damagedDir, fmt.Sprintf("%s-%s.%d", dir, name, n))
	}
	if err := how(s.path(dir, name), path); err != nil {
		return "", err
	}
	return path, s.sync.entries(s.path(damagedDir))
}

// strays reports what lies in layers/ and logs/ and belongs to no layer. Repair moves it to damaged/.
func (c *checker) strays(context.Context) error {
	for _, dir := range []string{layersDir, logsDir} {
		first, err := c.straysIn(dir)
		if err != nil {
			return err
		}
		if len(first) == 0 {
			continue
		}
		again, err := c.straysIn(dir) // a layer may just have been forgotten
		if err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(first)) {
			if first[name] != again[name] {
				continue
			}
			if err := c.stray(dir, name, first[name]); err != nil {
				return err
			}
		}
	}
	return nil
}

// stray reports one of them. What can be a record by its name is reported as one that cannot be used, which it is once the store is
// opened again.
func (c *checker) stray(dir, name, why string) error {
	repaired, kind, layer := "", FindingStray, ""
	id, _ := records.Parse(name)
	if dir == layersDir && name == id && backend.CheckID(id) == nil {
		kind, layer = FindingBadRecord, id
	}
	if c.Repair && why != restored && !c.onDisk[id] {
		c.store.mending.Lock()
		kept, err := c.store.setAside(dir, name, os.Rename)
		c.store.mending.Unlock()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		repaired = "moved to " + kept
	}
	c.report(kind, layer, fmt.Sprintf("%s: %s", c.store.path(dir, name), why), repaired)
	return nil
}

// restored is what is said of a record that somebody has put in its place while the store is open.
const restored = "it is whole, and was put here since Strata was started: the next start takes its layer back"

// straysIn says by its name why something in layers/ or logs/ belongs to no layer.
func (c *checker) straysIn(dir string) (map[string]string, error) {
	entries, err := os.ReadDir(c.store.path(dir))
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for _, e := range entries {
		id, suffix := e.Name(), ""
		if dir == layersDir {
			id, _ = records.Parse(id)
			suffix = e.Name()[len(id):]
		}
		if why := c.judgeEntry(dir, id, suffix, e); why != "" {
			found[e.Name()] = why
		}
	}
	return found, nil
}

// judgeEntry says why an entry of layers/ or logs/ belongs to no layer, "" if it does.
func (c *checker) judgeEntry(dir, id, suffix string, e fs.DirEntry) string {
	known, bad := c.store.known(id), c.store.isBad(id)
	switch {
	case backend.CheckID(id) != nil:
		return "no layer can have this name"
	case bad && !known, known && dir == layersDir && suffix == "":
		return "" // badRecords and recordOnDisk report it
	case !e.Type().IsRegular():
		return fmt.Sprintf("it is no regular file (%s)", e.Type())
	case known:
		return ""
	case c.onDisk[id] && dir == logsDir:
		return "no layer has this ID, but there is data: it stays with the data"
	case dir == logsDir || suffix != "":
		return "no layer has this ID"
	}
	switch _, unusable := c.store.records.Reread(e.Name(), id); {
	case unusable == nil:
		return restored
	case c.onDisk[id]:
		return "no layer has this ID, but there is data: it stays with the data, and counts as a damaged record after a restart"
	}
	return "no layer has this ID; nothing belongs to it: --repair moves it away"
}

// mountPoints reports what lies where layers are mounted and belongs to none. Repair removes empty directories.
func (c *checker) mountPoints(context.Context) error {
	first, err := c.store.foreignMountPoints()
	if err != nil || len(first) == 0 {
		return err
	}
	again, err := c.store.foreignMountPoints() // a layer may just have been forgotten
	if err != nil {
		return err
	}
	for _, path := range first {
		if !slices.Contains(again, path) {
			continue
		}
		repaired := ""
		if c.Repair && rmdir(path) == nil { // else it is not empty, or no directory
			repaired = "removed"
		}
		c.report(FindingStray, "", path+": no layer is mounted here", repaired)
	}
	return nil
}

// foreignMountPoints lists what lies where layers are mounted, belongs to none and has nothing mounted on it.
func (s *Store) foreignMountPoints() (paths []string, err error) {
	dirs, err := s.mountDirs()
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // of a store at rest, or after the last mount
			return nil, err
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if path == s.activePath() || path == s.ownPath() || s.known(e.Name()) || s.isBad(e.Name()) {
				continue
			}
			mounted, err := mount.Mounted(path)
			if err != nil {
				return nil, err
			}
			if !mounted { // else it is reported as a mount
				paths = append(paths, path)
			}
		}
	}
	return paths, nil
}

// names reports layers that cannot be found by their name. Repair lets them be found, by their ID if another layer has the name.
func (c *checker) names(context.Context) error {
	c.store.mu.RLock()
	var hidden []*layer
	for _, l := range c.store.byID {
		if c.store.hidden(l) {
			hidden = append(hidden, l)
		}
	}
	c.store.mu.RUnlock()
	slices.SortFunc(hidden, func(a, b *layer) int { return strings.Compare(a.rec.ID, b.rec.ID) })
	for _, l := range hidden {
		if err := c.name(l); err != nil {
			return err
		}
	}
	return nil
}

// hidden reports whether a layer's name leads to another layer, or to none. It wants Store.mu.
func (s *Store) hidden(l *layer) bool {
	return l.rec.State == StateReady && !l.gone && s.byName[l.rec.Name] != l
}

// name reports a layer that is still hidden once its lock is held: then nobody is about to give it its name.
func (c *checker) name(l *layer) error {
	s := c.store
	l.mu.Lock()
	defer l.mu.Unlock()
	s.mu.Lock()
	rec, hidden := l.rec, s.hidden(l)
	other := s.byName[rec.Name]
	if hidden && other == nil && c.Repair {
		s.byName[rec.Name] = l
	}
	s.mu.Unlock()
	switch {
	case !hidden:
		return nil
	case other == nil && c.Repair:
		c.report(FindingSameName, rec.Name, "layer "+rec.ID+" could not be found by its name", "it can")
		return nil
	case other == nil:
		c.report(FindingSameName, rec.Name, "layer "+rec.ID+" cannot be found by its name", "")
		return nil
	}
	repaired := ""
	if c.Repair {
		if err := s.rename(l, rec.ID); err != nil {
			return err
		}
		repaired = "the former is called " + rec.ID + " now"
	}
	c.report(FindingSameName, rec.Name, fmt.Sprintf("layer %s has the name of layer %s, which is the one that is mounted, has children, or is younger, "+
		"so that nobody can find the former", rec.ID, s.snapshot(other).ID), repaired)
	return nil
}

// rename gives a layer another name that is free. ErrAlreadyExists. It wants l.mu.
func (s *Store) rename(l *layer, as string) error {
	s.mu.Lock()
	if s.byName[as] != nil {
		s.mu.Unlock()
		return fmt.Errorf("layer %q: %w", as, errdefs.ErrAlreadyExists)
	}
	s.byName[as] = l
	s.mu.Unlock()
	err := s.update(l, func(r *record) { r.Name = as })
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.rec.Name != as {
		delete(s.byName, as)
	}
	return err
}
