package vfs

import "strata/backend"

// Driver describes the backend.
func Driver() backend.Driver {
	return backend.With(backend.Driver{
		Name:    "vfs",
		Summary: "whole copies of the parent, sharing blocks where the file system can; works anywhere",
		Needs:   "any file system",
		Grounds: []backend.Ground{{FS: "ext4"}, {FS: "xfs"}},
		Like:    "native",
	}, NewConfig, New)
}
