package command

import (
	"context"
	"fmt"

	gozfs "github.com/mistifyio/go-zfs/v4"

	"github.com/containerd/errdefs"

	"strata/backend/zfs/device"
)

// Inspect makes sure that datasets can be made below a file system, and returns its guid. ErrFailedPrecondition says why not.
func Inspect(ctx context.Context, dataset string) (guid string, err error) {
	values, err := Properties(ctx, dataset, "type", "guid", "keystatus")
	if errdefs.IsNotFound(err) {
		return "", fmt.Errorf("%w: zfs create it, or name another with zfs.fsname: %w", err, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return "", err
	}
	switch {
	case values[0] != "filesystem":
		return "", fmt.Errorf("%s is a %s, want a file system: %w", dataset, values[0], errdefs.ErrFailedPrecondition)
	case values[2] == "unavailable":
		return "", fmt.Errorf("%s is encrypted and its key is not loaded: zfs load-key %s: %w", dataset, dataset, errdefs.ErrFailedPrecondition)
	}
	pool, err := Pool(dataset)
	if err != nil {
		return "", err
	}
	switch {
	case pool.Health != gozfs.ZpoolOnline && pool.Health != gozfs.ZpoolDegraded:
		return "", fmt.Errorf("pool %s is %s: see zpool status %s: %w", pool.Name, pool.Health, pool.Name, errdefs.ErrFailedPrecondition)
	case pool.ReadOnly:
		return "", fmt.Errorf("pool %s is imported read-only: %w", pool.Name, errdefs.ErrFailedPrecondition)
	}
	return values[1], nil
}

// Pool describes the pool of a dataset.
func Pool(dataset string) (*gozfs.Zpool, error) {
	pool, err := gozfs.GetZpool(device.PoolName(dataset))
	if err != nil {
		return nil, fmt.Errorf("describe pool of %s: %w", dataset, err)
	}
	return pool, nil
}
