package backend

import (
	"fmt"

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
