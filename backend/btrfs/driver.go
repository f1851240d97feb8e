package btrfs

import "strata/backend"

// Driver describes the backend.
func Driver() backend.Driver {
	return backend.With(backend.Driver{
		Name:    "btrfs",
		Summary: "subvolumes, snapshots of the parent's; on a btrfs file system",
		Needs:   "a btrfs file system",
		Grounds: []backend.Ground{
			{FS: "btrfs"},
			{FS: "btrfs", Limits: true, Enable: "btrfs quota enable"},
		},
		Like: "btrfs",
	}, NewConfig, New)
}
