//go:build !linux

package mount

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"strata/backend"
)

// Mounter says by which system calls mounts are made.
type Mounter struct {
	Classic bool // only mount(2)
}

// Mount returns ErrNotImplemented.
func (Mounter) Mount(_ context.Context, _ []backend.Mount, target string) error {
	return fmt.Errorf("mount on %s: %w", target, errdefs.ErrNotImplemented)
}

// Mount returns ErrNotImplemented.
func Mount(ctx context.Context, mounts []backend.Mount, target string) error {
	return Mounter{}.Mount(ctx, mounts, target)
}

// Bind returns ErrNotImplemented.
func Bind(_ context.Context, source, _ string, _ bool) error {
	return fmt.Errorf("bind %s: %w", source, errdefs.ErrNotImplemented)
}

// Bare returns ErrNotImplemented.
func Bare(dir string) (string, func() error, error) {
	return "", nil, fmt.Errorf("look at %s: %w", dir, errdefs.ErrNotImplemented)
}

// Unmount succeeds: nothing can be mounted.
func Unmount(context.Context, string) error { return nil }

// Below lists nothing: nothing can be mounted.
func Below(string) ([]Info, error) { return nil, nil }

// InHost reports false.
func InHost() bool { return false }

// Mounted reports false: nothing can be mounted.
func Mounted(string) (bool, error) { return false, nil }

// On returns ErrNotImplemented.
func On(dir string) (Info, error) {
	return Info{}, fmt.Errorf("find mount of %s: %w", dir, errdefs.ErrNotImplemented)
}

// Seen reports false.
func Seen(string) (bool, error) { return false, nil }

// Portable returns ErrNotImplemented.
func Portable([]backend.Mount) ([]backend.Mount, error) {
	return nil, fmt.Errorf("describe mounts: %w", errdefs.ErrNotImplemented)
}
