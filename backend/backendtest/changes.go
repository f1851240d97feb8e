package backendtest

import (
	"path"
	"sort"
	"strings"
	"time"

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

// holds reports whether the tree has a directory of that name.
func holds(t Tree, dir string) bool {
	e, ok := t[dir]
	return ok && e.Mode.IsDir()
}

// sameFile compares two files. Which names share an inode is no matter of one file, and the time of
// a directory changes with whatever is made and removed in it, as Docker has it
// (docker/docker pkg/archive/changes_unix.go, statDifferent).
func sameFile(a, b Entry) bool {
	a.Group, b.Group = "", ""
	if a.Mode.IsDir() {
		a.Time, b.Time = time.Time{}, time.Time{}
	}
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
