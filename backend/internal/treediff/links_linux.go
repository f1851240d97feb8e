package treediff

import (
	"strata/backend"
	"strata/backend/internal/dirfd"
)

// Linker compares the files of two trees with regard to hard links. The names that a file has in the upper tree are
// listed either all or not at all: all if one of them differs or is new, or if what the lower tree has under them is not one
// file of its own. That is known once all names have been seen, so Walk may have to walk twice.
//
// Names of a file that are only gone do not make the others differ: leaving those out leaves them one file.
//
// It is for one goroutine. Memory is about 150 bytes for each file with several names, and 65,536 changes or 4 MiB of their paths.
type Linker struct {
	// Partial says that names which the trees have in common may not be shown. Then a file with fewer names than
	// the lower one has to be taken for one that was split off.
	Partial bool
	// OneDisk is that of Options.
	OneDisk bool

	round int
	files map[dirfd.Inode]*linked     // of the upper tree
	heirs map[dirfd.Inode]dirfd.Inode // which file of the upper tree has the names of one of the lower tree
}

// Rounds of Walk.
const (
	tentative = iota // answers stand unless a file with several names gets different ones
	survey           // there are too many answers to remember; only files with several names count
	final
)

// Bounds on the changes that are remembered until it is known that they stand: how many, and bytes in their paths.
const (
	maxTentative     = 1 << 16
	maxTentativeText = 4 << 20
)

// Walk passes the changes that walk yields on, once it is known that they are right. Each time it is called walk compares all names by Differ.
// What walk returns ends it.
func (s *Linker) Walk(yield func(backend.Change, error) bool, walk func(yield func(backend.Change, error) bool) error) error {
	var all []backend.Change
	text := 0
	err := walk(func(c backend.Change, _ error) bool {
		if text += len(c.Path); len(all) == maxTentative || text > maxTentativeText {
			all, s.round = nil, survey
		}
		if s.round == tentative {
			all = append(all, c)
		}
		return true
	})
	if err != nil {
		return err
	}
	if s.round == survey || s.undecided() {
		s.round = final
		return walk(yield)
	}
	for _, c := range all {
		if !yield(c, nil) {
			break
		}
	}
	return nil
}

func (f *File) inode() dirfd.Inode { return dirfd.InodeOf(&f.Stat) }

// linked is what is known about a file of the upper tree.
type linked struct {
	below  dirfd.Inode // what the lower tree has under its names
	names  uint64      // seen so far
	links  uint64      // that it has
	listed bool
	kept   bool // a name was not listed
}

// undecided tells that a file is listed, but not yet under all of its names.
func (s *Linker) undecided() bool {
	for _, f := range s.files {
		if f.listed && (f.kept || f.names < f.links) {
			return true
		}
	}
	return false
}

// Differ is the function Differ with regard to hard links. l is nil if the lower tree has no such name.
func (s *Linker) Differ(u *File, uIDs *backend.IDMap, l *File, lIDs *backend.IDMap) (bool, error) {
	several := !u.IsDir() && (u.Stat.Nlink > 1 || l != nil && !l.IsDir() && l.Stat.Nlink > 1)
	if s.round == survey && !several {
		return false, nil
	}
	if s.round == final && several {
		if f := s.files[u.inode()]; f != nil {
			return f.listed, nil
		}
	}
	differs := true
	if l != nil {
		var err error
		if differs, err = differ(u, uIDs, l, lIDs, s.OneDisk); err != nil {
			return false, err
		}
	}
	if several && s.round != final {
		differs = s.note(u, l, differs)
	}
	return differs, nil
}

// note remembers one name of a file with several, and tells whether it is listed as far as is known.
func (s *Linker) note(u, l *File, differs bool) bool {
	if s.files == nil {
		s.files, s.heirs = map[dirfd.Inode]*linked{}, map[dirfd.Inode]dirfd.Inode{}
	}
	id := u.inode()
	f := s.files[id]
	if f == nil {
		f = &linked{links: uint64(u.Stat.Nlink)}
		s.files[id] = f
	}
	f.names++
	if !differs {
		below := l.inode()
		if f.below == (dirfd.Inode{}) {
			f.below = below
		}
		heir, taken := s.heirs[below]
		if !taken {
			s.heirs[below] = id
		}
		differs = f.below != below || taken && heir != id || s.Partial && l.Stat.Nlink > u.Stat.Nlink
	}
	f.listed, f.kept = f.listed || differs, f.kept || !differs
	return differs
}

// unseen returns the files that are listed although not all of their names have been seen.
func (s *Linker) unseen() map[dirfd.Inode]bool {
	all := map[dirfd.Inode]bool{}
	for id, f := range s.files {
		if f.listed && f.names < f.links {
			all[id] = true
		}
	}
	return all
}
