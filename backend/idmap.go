package backend

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
)

// IDRange maps Size consecutive IDs. The JSON names are those of Docker's Init request.
type IDRange struct {
	Container uint32 `json:"container_id"` // first ID as the container sees it
	Host      uint32 `json:"host_id"`      // first ID as stored on disk
	Size      uint32 `json:"size"`
}

// IDMap maps owners between the container's view and the disk. It is read only once in use.
type IDMap struct {
	UIDs []IDRange `json:"uids"`
	GIDs []IDRange `json:"gids"`
}

// noID is no owner: it means "no change" to chown(2), and Linux maps it to nobody.
const noID = 1<<32 - 1

// Check refuses, with ErrInvalidArgument, a map that Linux would not take (user_namespaces(7)): ranges without an ID, ranges that
// hold 4294967295 or go beyond it, and ranges that overlap.
func (m *IDMap) Check() error {
	if m == nil {
		return nil
	}
	if err := checkRanges(m.UIDs); err != nil {
		return fmt.Errorf("uids of the ID map: %w", err)
	}
	if err := checkRanges(m.GIDs); err != nil {
		return fmt.Errorf("gids of the ID map: %w", err)
	}
	return nil
}

func checkRanges(ranges []IDRange) error {
	for _, first := range []func(IDRange) uint32{
		func(r IDRange) uint32 { return r.Container },
		func(r IDRange) uint32 { return r.Host },
	} {
		byFirst := slices.SortedFunc(slices.Values(ranges), func(a, b IDRange) int { return cmp.Compare(first(a), first(b)) })
		end := uint64(0)
		for _, r := range byFirst {
			switch {
			case r.Size == 0:
				return fmt.Errorf("range %d:%d:%d has no ID: %w", r.Container, r.Host, r.Size, errdefs.ErrInvalidArgument)
			case uint64(first(r)) < end:
				return fmt.Errorf("range %d:%d:%d overlaps another: %w", r.Container, r.Host, r.Size, errdefs.ErrInvalidArgument)
			}
			if end = uint64(first(r)) + uint64(r.Size); end > noID {
				return fmt.Errorf("range %d:%d:%d goes beyond %d, the highest ID that there is: %w", r.Container, r.Host, r.Size, uint32(noID-1), errdefs.ErrInvalidArgument)
			}
		}
	}
	return nil
}

// ToHost returns the owner to store for an owner in the container, or an ErrInvalidArgument if it
// is not mapped. A nil map changes nothing.
func (m *IDMap) ToHost(uid, gid uint32) (uint32, uint32, error) {
	if m == nil {
		return uid, gid, nil
	}
	u, ok := translate(m.UIDs, uid, true)
	if !ok {
		return 0, 0, fmt.Errorf("uid %d has no host ID in the ID map: %w", uid, errdefs.ErrInvalidArgument)
	}
	g, ok := translate(m.GIDs, gid, true)
	if !ok {
		return 0, 0, fmt.Errorf("gid %d has no host ID in the ID map: %w", gid, errdefs.ErrInvalidArgument)
	}
	return u, g, nil
}

// ToContainer is the reverse of ToHost.
func (m *IDMap) ToContainer(uid, gid uint32) (uint32, uint32, error) {
	if m == nil {
		return uid, gid, nil
	}
	u, ok := translate(m.UIDs, uid, false)
	if !ok {
		return 0, 0, fmt.Errorf("host uid %d has no container ID in the ID map: %w", uid, errdefs.ErrInvalidArgument)
	}
	g, ok := translate(m.GIDs, gid, false)
	if !ok {
		return 0, 0, fmt.Errorf("host gid %d has no container ID in the ID map: %w", gid, errdefs.ErrInvalidArgument)
	}
	return u, g, nil
}

// Root returns the owner that the container's root has on disk: 0:0 for a nil map.
func (m *IDMap) Root() (uint32, uint32, error) { return m.ToHost(0, 0) }

// Equal reports whether both maps translate with the same ranges.
func (m *IDMap) Equal(o *IDMap) bool {
	if m == nil || o == nil {
		return m == o
	}
	return equalRanges(m.UIDs, o.UIDs) && equalRanges(m.GIDs, o.GIDs)
}

func equalRanges(a, b []IDRange) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func translate(ranges []IDRange, id uint32, toHost bool) (uint32, bool) {
	for _, r := range ranges {
		from, to := r.Host, r.Container
		if toHost {
			from, to = r.Container, r.Host
		}
		if id >= from && id-from < r.Size {
			return to + (id - from), true
		}
	}
	return 0, false
}
