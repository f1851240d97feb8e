package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"maps"
	"math/bits"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"strata/backend/internal/mount"
)

// badRecord is a record that cannot be used. It stays where it is, nobody gets its ID, and what it may stand on is kept,
// until Check mends it.
type badRecord struct {
	id   string
	file string // its name in layers/
	err  error
	says *record // what it says, or said before it was damaged; nil if nobody can tell
	how  string  // how that was found, "" if the record is not damaged and only not to be used
	read bool    // its damaged text was read as it is: any word of it may be wrong
	lost bool    // so is its parent's ID, most likely: no layer has that

	holds []*layer // counted among their children; guarded by Store.mu
}

// restore finds out what a damaged record said, if somebody can tell.
func (b *badRecord) restore(text []byte) {
	if fixed, where := flipBack(text); fixed != nil {
		var r record
		if decode(fixed, &r) == nil && r.check(b.id) == nil {
			b.says, b.how = &r, where
			return
		}
	}
	line, _, _ := bytes.Cut(text, []byte{'\n'})
	var r record
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields() // a name of a field may be damaged, too
	if d.Decode(&r) != nil || d.InputOffset() != int64(len(line)) || r.check(b.id) != nil || checkName(r.Name) != nil || r.Created.IsZero() {
		return
	}
	b.says, b.how, b.read = &r, "its text can be read, but its checksum is that of another text: it was edited, or more than one bit is wrong", true
}

// sumLength is the length of a record's last line.
const sumLength = 9

// flipBack returns the text with a bit turned such that its checksum is right, and where that was; nil if there is none. Of two
// texts of this kind with right checksums at least six bits differ in any 5,000 bits, and four in any 2^31.
func flipBack(text []byte) ([]byte, string) {
	n := len(text) - sumLength
	if n <= 0 {
		return nil, ""
	}
	line, sum := text[:n], text[n:]
	is := crc32.Checksum(line, castagnoli)
	right := fmt.Appendf(nil, "%08x\n", is)
	var wrong uint32
	if wrongBits(sum, right) == 1 {
		return slices.Concat(line, right), "one bit of its checksum is wrong"
	}
	if _, err := fmt.Sscanf(string(sum), "%08x\n", &wrong); err != nil {
		return nil, ""
	}
	i, bit := flippedBit(is^wrong, n)
	if i < 0 {
		return nil, ""
	}
	fixed := bytes.Clone(text)
	fixed[i] ^= 1 << bit
	return fixed, fmt.Sprintf("one bit of it is wrong, in byte %d", i)
}

func wrongBits(a, b []byte) (n int) {
	for i := range a {
		n += bits.OnesCount8(a[i] ^ b[i])
	}
	return n
}

// flippedBit returns which bit of n bytes, flipped, changes their CRC-32C by that much, a byte of -1 if none does. It goes from
// the last byte to the first: what a bit changes there is what it changes in the byte behind, one zero byte later.
func flippedBit(change uint32, n int) (index, bit int) {
	var changes [8]uint32
	for bit := range changes {
		changes[bit] = castagnoli[1<<bit]
	}
	for i := n - 1; i >= 0; i-- {
		if bit := slices.Index(changes[:], change); bit >= 0 {
			return i, bit
		}
		for bit, c := range changes {
			changes[bit] = castagnoli[byte(c)] ^ c>>8
		}
	}
	return -1, 0
}

// quarantine takes the bad records in. What was cut off, and so is to be removed, is bad as well if its text is torn and
// a layer stands on it, or something mounted has it: then it was whole.
func (s *Store) quarantine(r *reading, used *usage) {
	s.bad = make(map[string]*badRecord, len(r.bad))
	for _, b := range r.bad {
		s.bad[b.id] = b
	}
	named := map[string]bool{}
	for _, rec := range r.recs {
		named[rec.Parent] = true
	}
	for _, b := range r.bad {
		if b.says != nil {
			named[b.says.Parent] = true
		}
	}
	for id, b := range r.torn {
		if named[id] || used.has(id) {
			s.bad[id] = b
		}
	}
	r.recs = slices.DeleteFunc(r.recs, func(rec record) bool { return s.bad[rec.ID] != nil })
	s.doubt(r.recs)
}

// unclear says that nobody can tell what the layer stands on.
func (b *badRecord) unclear() bool { return b.says == nil || b.lost }

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
		if b.read && !there[b.says.Parent] && s.bad[b.says.Parent] == nil {
			b.lost, b.how = true, ""
		}
	}
}

// holdParents counts the layers that bad records stand on, or may stand on, as parents of theirs, so that they are not removed.
// onDisk are the IDs of the backend's data. It wants Store.mu, or a store that is not open yet.
func (s *Store) holdParents(onDisk map[string]bool) {
	for _, b := range s.bad {
		switch {
		case !b.unclear():
			if p := s.byID[b.says.Parent]; p != nil {
				b.hold(p)
			}
		case onDisk[b.id]:
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
	case b.how != "":
		return "its record is damaged: strata check --repair mends it"
	case b.lost:
		return "its record is damaged: see strata check"
	case !errdefs.IsDataLoss(b.err):
		return b.err.Error() + "; see strata check"
	}
	for _, other := range s.bad { // it may stand on this one
		if other != b && other.unclear() && (len(s.namers(other.id)) > 0 || used.has(other.id)) {
			return "layer " + other.id + ", whose record is damaged, too, is needed and may stand on it"
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
		if b.says != nil && b.id != id && (b.says.Parent == id || b.says.Replaces == id) {
			names = append(names, b.says.Name)
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
	return slices.SortedFunc(maps.Values(s.bad), func(a, b *badRecord) int { return strings.Compare(a.id, b.id) })
}
