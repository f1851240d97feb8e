package tree

import "strata/backend/internal/dirfd"

// What package layertar still names by this package.
type (
	Dir   = dirfd.Dir
	Entry = dirfd.Entry
	Walk  = dirfd.Walk
	Trail = dirfd.Trail
)

// The orders of a Walk.
const (
	AsListed = dirfd.AsListed
	ByName   = dirfd.ByName
)

// ErrMoved is dirfd.ErrMoved.
var ErrMoved = dirfd.ErrMoved

// NewWalk is dirfd.NewWalk.
func NewWalk(root Dir, order dirfd.Order) *Walk { return dirfd.NewWalk(root, order) }

// NewTrail is dirfd.NewTrail.
func NewTrail(root Dir) *Trail { return dirfd.NewTrail(root) }
