package zfs

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strata/backend"
	"strata/backend/internal/failpoint"
	"strata/backend/zfs/command"
)

// Remove destroys the dataset and its snapshots, whoever made them, in one call of zfs. ErrFailedPrecondition names
// what is in the way: datasets that were made below it, others' clones, held snapshots; ErrUnavailable says that it is
// still mounted somewhere.
func (z *zfs) Remove(ctx context.Context, l backend.Layer) error {
	if err := backend.CheckID(l.ID); err != nil {
		return err
	}
	dataset := z.dataset(l.ID)
	o, err := command.Destroy(ctx, dataset, z.uuid)
	if err == nil && unix.Errno(o.Errno) == unix.EBUSY && z.unmount(ctx, dataset) {
		o, err = command.Destroy(ctx, dataset, z.uuid)
	}
	if err != nil {
		return err
	}
	if err := obstacle(o, dataset); err != nil {
		return err
	}
	return failpoint.Hit("zfs.remove.destroyed")
}

// unmount unmounts a dataset that ZFS itself has mounted, and reports whether there was one: if a power cut keeps a new
// dataset from getting its properties, the next import mounts it as it mounts everybody's. The mountpoint of a whole layer is
// legacy, which zfs does not unmount.
func (z *zfs) unmount(ctx context.Context, dataset string) bool {
	_, err := command.Run(ctx, "zfs", "unmount", dataset)
	return err == nil
}

// obstacle says what was in the way, nil if nothing was.
func obstacle(o command.Outcome, dataset string) error {
	switch {
	case len(o.Children) > 0:
		return fmt.Errorf("somebody has made datasets below %s: %s: zfs destroy or zfs rename them: %w", dataset, names(o.Children), errdefs.ErrFailedPrecondition)
	case len(o.Clones) > 0:
		return fmt.Errorf("somebody has made clones of snapshots of %s: %s: zfs destroy or zfs promote them: %w", dataset, names(o.Clones), errdefs.ErrFailedPrecondition)
	case len(o.Held) > 0:
		return fmt.Errorf("somebody holds snapshots of %s: %s: zfs release them: %w", dataset, names(o.Held), errdefs.ErrFailedPrecondition)
	case unix.Errno(o.Errno) == unix.EBUSY:
		return fmt.Errorf("%s is still mounted, perhaps in another mount namespace: %w: %w", dataset, unix.EBUSY, errdefs.ErrUnavailable)
	case o.Errno != 0:
		return fmt.Errorf("destroy %s: %w", dataset, unix.Errno(o.Errno))
	}
	return nil
}

func names(set map[string]any) string {
	return strings.Join(slices.Sorted(maps.Keys(set)), ", ")
}
