// Package idmap applies ID maps: to files, by changing their owners ([Chown]), and to mounts, by
// way of a user namespace that translates like the map ([UserNamespace], [Between]).
package idmap

import (
	"fmt"

	"github.com/containerd/errdefs"

	"strata/backend"
)

// Between returns the map that shows files stored with the map from as if they were stored with
// to: its container IDs are those on the disk, its host IDs those to be shown. IDs that only one
// of the two maps knows are left out. An error of class ErrInvalidArgument if nothing is left.
func Between(from, to *backend.IDMap) (*backend.IDMap, error) {
	from, to = whole(from), whole(to)
	m := &backend.IDMap{UIDs: join(from.UIDs, to.UIDs), GIDs: join(from.GIDs, to.GIDs)}
	if len(m.UIDs) == 0 || len(m.GIDs) == 0 {
		return nil, fmt.Errorf("the two ID maps have no container ID in common: %w", errdefs.ErrInvalidArgument)
	}
	return m, nil
}

// whole returns m, or for nil the map that changes nothing. The highest ID means "no change" to
// chown(2) and belongs to nobody.
func whole(m *backend.IDMap) *backend.IDMap {
	if m != nil {
		return m
	}
	all := []backend.IDRange{{Size: 1<<32 - 1}}
	return &backend.IDMap{UIDs: all, GIDs: all}
}

// join finds the container IDs that both lists know.
func join(from, to []backend.IDRange) []backend.IDRange {
	var both []backend.IDRange
	for _, f := range from {
		for _, t := range to {
			first := max(uint64(f.Container), uint64(t.Container))
			end := min(uint64(f.Container)+uint64(f.Size), uint64(t.Container)+uint64(t.Size))
			if first >= end {
				continue
			}
			both = append(both, backend.IDRange{
				Container: f.Host + uint32(first-uint64(f.Container)),
				Host:      t.Host + uint32(first-uint64(t.Container)),
				Size:      uint32(end - first),
			})
		}
	}
	return both
}
