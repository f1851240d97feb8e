package dirfd

import (
	"cmp"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Order is how a Walk lists a directory.
type Order int

// The orders.
const (
	// AsListed is the order of the file system, some thousand names at a time. A listing that was given up goes on at its offset.
	AsListed Order = iota
	// ByName sorts all names in byte order. A listing that was given up goes on after the last name.
	ByName
	// ByInode sorts some thousand names at a time by inode number: ext4 and xfs then touch each block of their inode tables
	// once. A listing that was given up begins again. It is for walks that remove what they have seen.
	ByInode
)

// spareNames is how many bytes more than a listing takes the names below it may take before it is given up.
const spareNames = 4 << 20

// reusedEntries is how long the buffer may be that the next directory is read into.
const reusedEntries = 4096

// Walk goes through a tree, directory by directory, as its caller steps: Next lists what Dir holds, Enter goes into a
// directory of it, Leave back up, where Next goes on. So a loop does for any depth, and two walks go side by side.
//
// Names that wait for their turn are given up once those of deeper directories take more memory, and are read again
// on the way back. Memory is thus bounded by twice the largest listing, and reading again by reading.
type Walk struct {
	Trail
	order    Order
	listings []listing // of the root and of each level
	first    int       // index of the first listing whose names are in memory
	memory   int       // that all names take
	keep     int       // spareNames
	buf      []byte
	list     []Entry // just read
}

// listing is how far a directory was listed.
type listing struct {
	entries []Entry
	next    int    // index of the one whose turn it is
	cost    int    // memory
	offset  int64  // where to go on after what came before entries
	name    string // the last one before entries
	seek    bool   // the descriptor stands elsewhere
	done    bool   // nothing comes after entries
}

// NewWalk begins at a directory, which stays the caller's to close.
func NewWalk(root Dir, order Order) *Walk {
	return &Walk{
		Trail:    *NewTrail(root),
		order:    order,
		keep:     spareNames,
		listings: []listing{{seek: true}},
		buf:      make([]byte, listBuffer),
	}
}

// Next returns the next name in Dir and steps over it; false at the end of the directory.
func (w *Walk) Next() (Entry, bool, error) {
	e, ok, err := w.Peek()
	if ok {
		w.listings[len(w.listings)-1].next++
	}
	return e, ok, err
}

// Peek returns what Next will return.
func (w *Walk) Peek() (Entry, bool, error) {
	l := &w.listings[len(w.listings)-1]
	if l.next == len(l.entries) && !l.done {
		if err := w.fill(l); err != nil {
			return Entry{}, false, err
		}
	}
	if l.next == len(l.entries) {
		return Entry{}, false, nil
	}
	return l.entries[l.next], true, nil
}

// Rewind lists Dir again from its beginning.
func (w *Walk) Rewind() {
	l := &w.listings[len(w.listings)-1]
	w.memory -= l.cost
	*l = listing{seek: true}
}

// Enter goes into a directory of Dir. The errors are those of Dir.Open, and leave the walk as it is.
func (w *Walk) Enter(name string) error {
	if err := w.Trail.Enter(name); err != nil {
		return err
	}
	w.listings = append(w.listings, listing{})
	return nil
}

// Leave goes back to the directory above. If that is not found again the walk ends at the deepest directory on the way to
// it that is, and the error is ErrMoved: what is left of those between is then out of reach.
func (w *Walk) Leave() error {
	closed := w.open >= len(w.levels)-1 // or the root, which never is
	err := w.Trail.Leave()
	for len(w.listings) > len(w.levels)+1 {
		last := &w.listings[len(w.listings)-1]
		w.memory -= last.cost
		*last = listing{}
		w.listings = w.listings[:len(w.listings)-1]
	}
	w.first = min(w.first, len(w.levels))
	if closed && len(w.levels) > 0 {
		w.listings[len(w.levels)].seek = true
	}
	return err
}

// Close closes all but the root, to which the walk goes back.
func (w *Walk) Close() {
	w.Trail.Close()
	w.listings, w.first, w.memory = []listing{{seek: true}}, 0, 0
}

// fill reads what comes after the names of a listing, which is the last one.
func (w *Walk) fill(l *listing) error {
	d := w.Dir()
	l.pass(len(l.entries))
	if l.seek {
		if err := w.seek(d, l); err != nil {
			return err
		}
	}
	list, err := w.read(d)
	if err != nil {
		return err
	}
	w.memory -= l.cost
	l.take(list)
	w.memory += l.cost
	l.done = w.order == ByName || len(list) == 0
	if l.seek {
		l.seek = false
		l.skip(w.order)
	}
	w.giveUp()
	return nil
}

// smallest is the memory that the shortest name takes, bytes.
const smallest = 16

func (w *Walk) seek(d Dir, l *listing) error {
	offset := l.offset
	if w.order != AsListed {
		offset = 0
	}
	if _, err := unix.Seek(d.FD, offset, unix.SEEK_SET); err != nil {
		return &os.PathError{Op: "list", Path: d.String(), Err: err}
	}
	return nil
}

func (w *Walk) read(d Dir) (list []Entry, err error) {
	if w.order == ByName {
		list, err = d.sorted(w.buf, w.list)
	} else {
		list, err = d.next(w.buf, w.list)
	}
	if w.order == ByInode {
		slices.SortFunc(list, func(a, b Entry) int { return cmp.Compare(a.Ino, b.Ino) })
	}
	if cap(list) <= reusedEntries {
		w.list = list
	}
	return list, err
}

// take makes a listing of what was read.
func (l *listing) take(list []Entry) {
	if cap(l.entries) < len(list) {
		l.entries = make([]Entry, 0, len(list))
	}
	l.entries, l.next = append(l.entries[:0], list...), 0
	l.cost = cap(l.entries) * int(unsafe.Sizeof(Entry{}))
	for i := range list {
		l.cost += max(len(list[i].Name), smallest)
	}
}

// pass remembers the last of the first n entries.
func (l *listing) pass(n int) {
	if n > 0 {
		l.offset, l.name = l.entries[n-1].Off, l.entries[n-1].Name
	}
}

// skip steps over what was seen before the listing was given up.
func (l *listing) skip(order Order) {
	switch order {
	case ByName:
		if l.name != "" {
			at, found := slices.BinarySearchFunc(l.entries, l.name, func(e Entry, name string) int { return strings.Compare(e.Name, name) })
			if found {
				at++
			}
			l.next = at
		}
	case AsListed: // names with one hash have one offset on ext4
		l.next = 1 + slices.IndexFunc(l.entries, func(e Entry) bool { return e.Name == l.name })
	case ByInode: // what was seen is removed
	}
}

// giveUp forgets the names nearest to the root as long as those below them take keep bytes more than they do.
func (w *Walk) giveUp() {
	for w.first < len(w.listings)-1 {
		l := &w.listings[w.first]
		if w.memory-2*l.cost <= w.keep {
			return
		}
		w.memory -= l.cost
		l.forget()
		w.first++
	}
}

// forget leaves of a listing where it goes on.
func (l *listing) forget() {
	l.pass(l.next)
	if l.next < len(l.entries) {
		l.seek, l.done = true, false
	}
	l.entries, l.next, l.cost = nil, 0, 0
}
