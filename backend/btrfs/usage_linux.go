package btrfs

import (
	"context"
	"errors"
	"os"

	"github.com/containerd/errdefs"

	"strata/backend"
	"strata/backend/btrfs/changed"
	"strata/backend/btrfs/ioctl"
	"strata/backend/internal/dirfd"
)

// made returns the transaction that made upper as a snapshot of its parent; 0 if it is none.
func (b *btrfs) made(ctx context.Context, upper dirfd.Dir, parent string) (uint64, error) {
	lower, err := b.open(parent)
	if errdefs.IsNotFound(err) || errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer lower.Close()
	s, err := changed.SnapshotOf(ctx, upper, lower)
	if s == nil {
		return 0, err
	}
	return s.Made, nil
}

// meter adds up what subvolumes brought to the disk.
type meter struct {
	fd      int
	sum     backend.Usage
	counted map[uint64]struct{} // addresses of extents: several files, or parts of one, may share one
}

// subvolume adds a subvolume and those inside it, as far as they are younger than since.
func (m *meter) subvolume(ctx context.Context, id, since uint64) error {
	err := ioctl.Walk(ctx, m.fd, id, since, ioctl.Visitor{
		Inode: func(n ioctl.Inode) {
			if n.Created > since {
				m.sum.Inodes++
			}
		},
		Extent: func(e ioctl.Extent) { m.extent(e, since) },
	})
	if err != nil {
		return err
	}
	inside, err := ioctl.NestedIn(ctx, m.fd, id)
	if err != nil {
		return err
	}
	for _, n := range inside {
		made, err := ioctl.SnapshotMade(ctx, m.fd, n.ID)
		if err != nil {
			return err
		}
		if err := m.subvolume(ctx, n.ID, made); err != nil {
			return err
		}
	}
	return nil
}

func (m *meter) extent(e ioctl.Extent, since uint64) {
	if e.Written <= since {
		return
	}
	if e.Address != 0 {
		if _, again := m.counted[e.Address]; again {
			return
		}
		m.counted[e.Address] = struct{}{}
	}
	m.sum.Size += e.Bytes
}
