package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"

	"github.com/containerd/errdefs"

	"strata/backend/internal/run"
)

// Run runs zfs(8) or zpool(8) and returns what it prints.
func Run(ctx context.Context, args ...string) (string, error) { return feed(ctx, nil, args...) }

// feed is Run with something to read.
func feed(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	out, err := run.Output(ctx, stdin, args...)
	switch {
	case err == nil:
		return string(out), nil
	case errors.Is(err, exec.ErrNotFound):
		return "", fmt.Errorf("%w: the zfs tools of the kernel module's version are needed (Debian: zfsutils-linux); a managed plugin uses the host's: docker plugin set PLUGIN host.source=/", err)
	case run.Said(err, "out of space", "No space left on device"):
		return "", fmt.Errorf("%w: %w", err, errdefs.ErrResourceExhausted)
	case run.Said(err, "I/O is currently suspended"):
		return "", fmt.Errorf("%w: see zpool status: %w", err, errdefs.ErrUnavailable)
	case run.Said(err, "Permission denied", "permission denied", "must be run as root"):
		return "", fmt.Errorf("%w: %w", err, errdefs.ErrPermissionDenied)
	case run.Said(err, "internal error", "error while loading shared libraries", "modules cannot be auto-loaded", "ZFS modules are not loaded"):
		return "", fmt.Errorf("%w: have the zfs tools and the kernel module the same version? see zfs version: %w", err, errdefs.ErrFailedPrecondition)
	}
	return "", err
}
