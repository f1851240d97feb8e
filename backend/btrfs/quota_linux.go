package btrfs

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"strata/backend/btrfs/ioctl"
)

// requireQuota returns ErrNotImplemented if quotas are off. The administrator decides about them: they slow snapshots and
// deletions down.
func requireQuota(ctx context.Context, fd int) error {
	q, err := ioctl.QuotaOf(ctx, fd)
	if err != nil {
		return err
	}
	if q == ioctl.QuotaOff {
		return fmt.Errorf("quotas are off on this btrfs; an administrator can switch them on with `btrfs quota enable --simple PATH`, or without --simple before Linux 6.7: %w",
			errdefs.ErrNotImplemented)
	}
	return nil
}
