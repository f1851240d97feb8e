//go:build !linux

package idmap

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/errdefs"

	"strata/backend"
)

// Chown returns ErrNotImplemented.
func Chown(_ context.Context, dir string, _, _ *backend.IDMap) error {
	return fmt.Errorf("change owners in %s: %w", dir, errdefs.ErrNotImplemented)
}

// UserNamespace returns ErrNotImplemented.
func UserNamespace(context.Context, *backend.IDMap) (*os.File, error) {
	return nil, fmt.Errorf("make user namespace: %w", errdefs.ErrNotImplemented)
}
