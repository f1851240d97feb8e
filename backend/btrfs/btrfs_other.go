//go:build !linux

package btrfs

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"strata/backend"
)

// New makes the backend on Linux.
func New(context.Context, backend.Env, *Config) (backend.Backend, error) {
	return nil, fmt.Errorf("btrfs needs Linux: %w", errdefs.ErrNotImplemented)
}
