package zfs

import "strata/backend"

// Driver describes the backend.
func Driver() backend.Driver {
	return backend.With(backend.Driver{
		Name:    "zfs",
		Summary: "ZFS datasets, clones of the parent's snapshot",
		Needs:   "OpenZFS 0.8 or later, with its tools",
		Devices: []string{"/dev/zfs"},
		Grounds: []backend.Ground{{FS: "zfs", Limits: true}},
		Like:    "zfs",
	}, NewConfig, New)
}
