// Package all lists the backends that the program is built with. To add one, add a line to Backends.
package all

import (
	"strata/backend"
	"strata/backend/btrfs"
	"strata/backend/overlay"
	"strata/backend/vfs"
	"strata/backend/zfs"
)

// Backends returns all drivers, the default first.
func Backends() []backend.Driver {
	return []backend.Driver{
		overlay.Driver(),
		vfs.Driver(),
		btrfs.Driver(),
		zfs.Driver(),
	}
}
