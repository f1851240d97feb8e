package zfs

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"strata/backend"
	"strata/backend/internal/failpoint"
	"strata/backend/zfs/changed"
)

// Narrow finds the objects that changed since the parent's snapshot, and with them the directories above
// them (see the package comment). A layer that is not sealed gets a snapshot for a moment.
func (z *zfs) Narrow(ctx context.Context, l backend.Layer, upper, lower string) (_ func(dev, ino uint64) bool, err error) {
	if z.blind != "" {
		return nil, nil //nolint:nilnil // nobody knows; Report says why
	}
	dataset, err := z.find(ctx, l.ID)
	if err != nil {
		return nil, err
	}
	to := snapshot(dataset)
	if !l.Sealed {
		to = dataset + "@" + momentary + suffix()
		if err := z.device.Snapshot(to); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, z.device.Destroy(to, false)) }()
		if err := failpoint.Hit("zfs.narrow.snapshot-made"); err != nil {
			return nil, err
		}
	}
	objects, known, err := z.changed(ctx, l, dataset, to)
	if !known || err != nil {
		return nil, err
	}
	search := changed.Search{
		Device: z.device, Snapshot: to,
		Upper: changed.Tree{Dir: upper, IDs: l.IDMap}, Lower: changed.Tree{Dir: lower, IDs: l.Parents[0].IDMap},
	}
	return search.Find(ctx, objects)
}

// momentary begins the names of snapshots that are only there while a layer is compared, or cloned without being sealed.
const momentary = "strata-tmp-"

// suffix makes a name different from all others.
func suffix() string { return strings.ToLower(rand.Text()[:10]) }

// changed returns the objects that may differ from the parent, if that is known.
func (z *zfs) changed(ctx context.Context, l backend.Layer, dataset, to string) (objects []uint64, known bool, err error) {
	parent, err := z.find(ctx, l.Parent())
	if err != nil {
		return nil, false, err
	}
	objects, err = z.device.Changed(snapshot(parent), to)
	if errors.Is(err, unix.EXDEV) || errors.Is(err, unix.ENOENT) {
		from, oerr := z.origin(ctx, dataset, parent)
		if oerr != nil || from == "" {
			return nil, false, oerr
		}
		objects, err = z.device.Changed(from, to)
	}
	if err != nil {
		return nil, false, err
	}
	return objects, true, nil
}
