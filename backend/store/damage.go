package store

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"strata/backend/internal/mount"
	"strata/backend/store/records"
)

// badRecord is a record that cannot be used. It stays where it is, nobody gets its ID, and what it may stand on is kept,
// until Check mends it.
type badRecord struct {
	*records.Bad
	lost  bool     // its text was read as it is, and its parent's ID is damaged, most likely: no layer has that
	holds []*layer // counted among their children; guarded by Store.mu
}

// quarantine takes the bad records in. What was cut off, and so is to be removed, is bad as well if its text is torn and
// a layer stands on it, or something mounted has it: then it was whole.
func (s *Store) quarantine(r *records.Reading, used *usage) {
	s.bad = make(map[string]*badRecord, len(r.Bad))
	for _, b := range r.Bad {
		s.bad[b.ID] = &badRecord{Bad: b}
	}
	named := map[string]bool{}
	for _, rec := range r.Records {
		named[rec.Parent] = true
	}
	for _, b := range r.Bad {
		if b.Says != nil {
			named[b.Says.Parent] = true
		}
	}
	for id, b := range r.Torn {
		if named[id] || used.has(id) {
			s.bad[id] = &badRecord{Bad: b}
		}
	}
	r.Records = slices.DeleteFunc(r.Records, func(rec record) bool { return s.bad[rec.ID] != nil })
	s.doubt(r.Records)
}

// unclear says that nobody can tell what the layer stands on.
func (b *badRecord) unclear() bool { return b.Says == nil || b.lost }

// doubt notes which damaged records name a parent that is not there.
func (s *Store) doubt(recs []record) {
	there := map[string]bool{"": true}
	for _, rec := range recs {
		there[rec.ID] = true
	}
	for _, p := range s.peers {
		for id := range p.byID {
			there[id] = true
		}
	}
	for _, b := range s.bad {
		if b.Read && !there[b.Says.Parent] && s.bad[b.Says.Parent] == nil {
			b.lost, b.How = true, ""
		}
	}
}

// holdParents counts the layers that bad records stand on, or may stand on, as parents of theirs, so that they are not removed.
// onDisk are the IDs of the backend's data. It wants Store.mu, or a store that is not open yet.
func (s *Store) holdParents(onDisk map[string]bool) {
	for _, b := range s.bad {
		switch {
		case !b.unclear():
			if p := s.byID[b.Says.Parent]; p != nil {
				b.hold(p)
			}
		case onDisk[b.ID]:
			for _, l := range s.byID {
				if l.rec.State == StateRemoving && l.rec.Sealed {
					b.hold(l)
				}
			}
		}
	}
}

func (b *badRecord) hold(l *layer) {
	l.children++
	l.held++
	b.holds = append(b.holds, l)
}

// letGo is the reverse of holdParents for one record. It returns the layers that only waited for it, and wants Store.mu.
func (b *badRecord) letGo() (leaving []*layer) {
	for _, l := range b.holds {
		l.children--
		l.held--
		leaving = append(leaving, l.leave()...)
	}
	b.holds = nil
	return leaving
}

// circles returns the layers that stand on themselves.
func circles(layers map[string]*layer) (in []*layer) {
	walks := make(map[*layer]int, len(layers)) // which walk came by first
	walk := 0
	for _, l := range layers {
		walk++
		for l != nil && walks[l] == 0 {
			walks[l] = walk
			l = l.parent
		}
		if l == nil || walks[l] != walk {
			continue
		}
		in = append(in, l)
		for p := l.parent; p != l; p = p.parent {
			in = append(in, p)
		}
	}
	return in
}

// cutCircles takes the parents from layers that stand on themselves: all that follows parents comes to an end, and nobody can use
// these layers or what stands on them.
func cutCircles(layers map[string]*layer) {
	for _, l := range circles(layers) {
		l.parent = nil
	}
}

// usage knows what is mounted.
type usage struct{ mounts []mount.Info }

// readUsage reads the mount table.
func readUsage() (*usage, error) {
	all, err := mount.Below("/")
	return &usage{all}, err
}

// has reports whether something that is mounted has a layer's ID in its place or in what it consists of.
func (u *usage) has(id string) bool {
	return slices.ContainsFunc(u.mounts, func(m mount.Info) bool {
		return slices.ContainsFunc([]string{m.Target, m.Source, m.Root, m.Super}, func(text string) bool { return hasWord(text, id) })
	})
}

// hasWord reports whether text has a word, which consists of what an ID may consist of.
func hasWord(text, word string) bool {
	return slices.Contains(strings.FieldsFunc(text, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-'
	}), word)
}

// need says why data without a usable record has to stay, "" if nothing is known that needs it.
func (s *Store) need(id string, used *usage) string {
	if used.has(id) {
		return "something that is mounted uses it"
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if names := s.namers(id); len(names) > 0 {
		return "needed by " + enumerate(names)
	}
	b := s.bad[id]
	switch {
	case b == nil:
		return ""
	case b.How != "":
		return "its record is damaged: strata check --repair mends it"
	case b.lost:
		return "its record is damaged: see strata check"
	case !errdefs.IsDataLoss(b.Err):
		return b.Err.Error() + "; see strata check"
	}
	for _, other := range s.bad { // it may stand on this one
		if other != b && other.unclear() && (len(s.namers(other.ID)) > 0 || used.has(other.ID)) {
			return "layer " + other.ID + ", whose record is damaged, too, is needed and may stand on it"
		}
	}
	return ""
}

// namers lists the layers whose records name this ID, as that of their parent or of a layer that they replace, sorted. It wants Store.mu.
func (s *Store) namers(id string) (names []string) {
	for _, l := range s.byID {
		if l.rec.Parent == id || l.rec.Replaces == id {
			names = append(names, l.rec.Name)
		}
	}
	for _, b := range s.bad {
		if b.Says != nil && b.ID != id && (b.Says.Parent == id || b.Says.Replaces == id) {
			names = append(names, b.Says.Name)
		}
	}
	slices.Sort(names)
	return names
}

// enumerate names layers, the first few of many.
func enumerate(names []string) string {
	const most = 8
	quoted := make([]string, 0, most)
	for _, n := range names[:min(len(names), most)] {
		quoted = append(quoted, fmt.Sprintf("%q", n))
	}
	list := strings.Join(quoted, ", ")
	if len(names) > most {
		list += fmt.Sprintf(" and %d more", len(names)-most)
	}
	return list
}

// badRecords returns what could not be read when the store was opened, and is so still, sorted by ID.
func (s *Store) badRecords() []*badRecord {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.SortedFunc(maps.Values(s.bad), func(a, b *badRecord) int { return strings.Compare(a.ID, b.ID) })
}
