//go:build !linux

package store

import (
	"fmt"
	"os"

	"github.com/containerd/errdefs"
)

type fileInfo struct {
	file  bool // a regular file
	size  int64
	ino   uint64
	links uint64
}

func lockExclusive(*os.File) error {
	return fmt.Errorf("stores need Linux: %w", errdefs.ErrNotImplemented)
}

// HeldBy says which process has the store in root open: none can be seen.
func HeldBy(string) string { return "" }

func disinherit(path string) error {
	return fmt.Errorf("disinherit %s: stores need Linux: %w", path, errdefs.ErrNotImplemented)
}

func rmdir(path string) error {
	return fmt.Errorf("rmdir %s: stores need Linux: %w", path, errdefs.ErrNotImplemented)
}

func lstat(_, path string) (fileInfo, error) {
	return fileInfo{}, fmt.Errorf("lstat %s: stores need Linux: %w", path, errdefs.ErrNotImplemented)
}

func oneJournal(string, string) (bool, error) { return false, nil }

func hasAccess(string, os.FileMode, uint32) (bool, error) { return false, nil }
