package overlay

import "strata/backend"

// Driver describes the backend.
func Driver() backend.Driver {
	return backend.With(backend.Driver{
		Name:    "overlay",
		Summary: "directories of changes, joined by the kernel's overlay file system",
		Needs:   "ext4, xfs (ftype=1), btrfs, tmpfs or another file system with d_type and whiteouts",
		Grounds: []backend.Ground{
			{FS: "ext4"},
			{FS: "xfs"},
			{FS: "btrfs"},
			{FS: "ext4", MountOptions: "prjquota", Limits: true, Kernel: "CONFIG_QFMT_V2"},
		},
		Like: "overlayfs",
	}, NewConfig, New)
}
