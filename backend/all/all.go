// Package all lists the backends that the program is built with. To add one, add a line to Backends.
package all

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"strata/backend"
	"strata/backend/btrfs"
	"strata/backend/overlay"
	"strata/backend/vfs"
	"strata/backend/zfs"
)

// Backends returns all drivers, the default first.
func Backends() []backend.Driver {
	return []backend.Driver{
		driver("overlay", "directories of changes, joined by the kernel's overlay file system", overlay.NewConfig, overlay.New),
		driver("vfs", "whole copies of the parent, sharing blocks where the file system can; works anywhere", vfs.NewConfig, vfs.New),
		driver("btrfs", "subvolumes, snapshots of the parent's; on a btrfs file system", btrfs.NewConfig, btrfs.New),
		driver("zfs", "ZFS datasets, clones of the parent's snapshot", zfs.NewConfig, zfs.New),
	}
}

// driver fits a backend's own types into a backend.Driver.
func driver[C any](name, summary string, defaults func() *C, open func(context.Context, backend.Env, *C) (backend.Backend, error)) backend.Driver {
	return backend.Driver{
		Name:    name,
		Summary: summary,
		Config:  func() any { return defaults() },
		Open: func(ctx context.Context, env backend.Env, config any) (backend.Backend, error) {
			c, ok := config.(*C)
			if !ok {
				return nil, fmt.Errorf("open backend %s: its options are a %T: %w", name, config, errdefs.ErrInvalidArgument)
			}
			return open(ctx, env, c)
		},
	}
}
