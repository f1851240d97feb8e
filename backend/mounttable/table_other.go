//go:build !linux

package mounttable

import "github.com/moby/sys/mountinfo"

// Read reads the mount table.
func Read(filter mountinfo.FilterFunc) ([]*mountinfo.Info, error) { return mountinfo.GetMounts(filter) }
