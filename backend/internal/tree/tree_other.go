//go:build !linux

package tree

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"strata/backend"
)

// RemoveAll removes a tree on Linux.
func RemoveAll(_ context.Context, dir string) error {
	return fmt.Errorf("remove %s: needs Linux: %w", dir, errdefs.ErrNotImplemented)
}

// Usage measures a tree on Linux.
func Usage(_ context.Context, dir string) (backend.Usage, error) {
	return backend.Usage{}, fmt.Errorf("measure %s: needs Linux: %w", dir, errdefs.ErrNotImplemented)
}

// Copy copies a tree on Linux.
func Copy(_ context.Context, src, _ string) error {
	return fmt.Errorf("copy %s: needs Linux: %w", src, errdefs.ErrNotImplemented)
}

// SyncDeleted is for Linux.
func SyncDeleted(string) error { return errdefs.ErrNotImplemented }
