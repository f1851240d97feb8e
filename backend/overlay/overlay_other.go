//go:build !linux

package overlay

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"strata/backend"
)

// New returns ErrNotImplemented.
func New(context.Context, backend.Env, *Config) (backend.Backend, error) {
	return nil, fmt.Errorf("overlay: needs Linux: %w", errdefs.ErrNotImplemented)
}
