//go:build !linux

package quota

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
)

// Projects does nothing outside Linux: Open makes none.
type Projects struct{}

// Open returns ErrNotImplemented.
func Open(dir string) (*Projects, error) {
	return nil, fmt.Errorf("project quota of %s: needs Linux: %w", dir, errdefs.ErrNotImplemented)
}

// Close does nothing.
func (*Projects) Close() error { return nil }

// Limit returns ErrNotImplemented.
func (*Projects) Limit(context.Context, string, int64) error { return errdefs.ErrNotImplemented }

// Usage returns ErrNotImplemented.
func (*Projects) Usage(string) (bytes, inodes int64, err error) {
	return 0, 0, errdefs.ErrNotImplemented
}

// Remove does nothing.
func (*Projects) Remove(string) error { return nil }
