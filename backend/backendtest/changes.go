package backendtest

import (
	"iter"
	"maps"
	"path"
	"slices"
	"sort"
	"strings"

	"github.com/google/go-cmp/cmp"

	"strata/backend"
)

// Changes is the slow and obvious way to tell what happened between two trees: the answer that a
// backend's own must be equal to.
func Changes(parent, child Tree) []backend.Change {
	kinds := map[string]backend.ChangeKind{}
	for name, c := range child {
		p, existed := parent[name]
		switch {
		case !existed:
			kinds[name] = backend.Added
		case !sameFile(p, c):
			kinds[name] = backend.Modified
		}
	}
	for name := range parent {
		if _, exists := child[name]; !exists && holds(child, path.Dir(name)) {
			kinds[name] = backend.Deleted
		}
	}
	for _, name := range regrouped(parent, child, kinds) {
		kinds[name] = backend.Modified
	}
	for name := range kinds {
		for up := path.Dir(name); up != "."; up = path.Dir(up) {
			if _, listed := kinds[up]; !listed {
				kinds[up] = backend.Modified
			}
		}
	}
	delete(kinds, ".")
	list := make([]backend.Change, 0, len(kinds))
	for name, k := range kinds {
		list = append(list, backend.Change{Path: "/" + name, Kind: k})
	}
	sort.Slice(list, func(i, j int) bool { return pathLess(list[i].Path, list[j].Path) })
	return list
}

// Collect reads a list of changes to its end.
func Collect(changes iter.Seq2[backend.Change, error]) (list []backend.Change, err error) {
	for c, err := range changes {
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	return list, nil
}

// Sequence is a list of changes as those who list them return it, with an error at its end unless that is nil.
func Sequence(list []backend.Change, err error) iter.Seq2[backend.Change, error] {
	return func(yield func(backend.Change, error) bool) {
		for _, c := range list {
			if !yield(c, nil) {
				return
			}
		}
		if err != nil {
			yield(backend.Change{}, err)
		}
	}
}

// regrouped returns the names that are listed only because their files have others: names that are one file in the child
// are listed all or not at all, and those that are not one file of their own in the parent are listed.
func regrouped(parent, child Tree, kinds map[string]backend.ChangeKind) []string {
	names := slices.Sorted(maps.Keys(child))
	slices.SortFunc(names, func(a, b string) int {
		return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/"))
	})
	below, heirs, listed := map[string]string{}, map[string]string{}, map[string]bool{}
	for _, name := range names {
		c, was := group(child, name), group(parent, name)
		_, differs := kinds[name]
		if differs {
			listed[c] = true
			continue
		}
		if _, known := below[c]; !known {
			below[c] = was
		}
		if _, taken := heirs[was]; !taken {
			heirs[was] = c
		}
		if below[c] != was || heirs[was] != c {
			listed[c] = true
		}
	}
	return slices.DeleteFunc(names, func(name string) bool {
		_, already := kinds[name]
		return already || !listed[group(child, name)]
	})
}

// group names the file that a name belongs to.
func group(t Tree, name string) string {
	if g := t[name].Group; g != "" {
		return g
	}
	return name
}

// holds reports whether the tree has a directory of that name.
func holds(t Tree, dir string) bool {
	e, ok := t[dir]
	return ok && e.Mode.IsDir()
}

// sameFile compares two files but for which names they have.
func sameFile(a, b Entry) bool {
	a.Group, b.Group = "", ""
	return cmp.Equal(a, b)
}

// pathLess orders paths by their components, so that a directory comes directly before what it
// holds.
func pathLess(a, b string) bool {
	for a != "" && b != "" {
		var x, y string
		x, a, _ = strings.Cut(a, "/")
		y, b, _ = strings.Cut(b, "/")
		if x != y {
			return x < y
		}
	}
	return a == "" && b != ""
}

// withoutExtra returns got without modifications of files that are not in want.
func withoutExtra(want, got []backend.Change) []backend.Change {
	wanted := map[string]bool{}
	for _, c := range want {
		wanted[c.Path] = true
	}
	kept := make([]backend.Change, 0, len(got))
	for _, c := range got {
		if c.Kind != backend.Modified || wanted[c.Path] {
			kept = append(kept, c)
		}
	}
	return kept
}
