package zfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"

	"github.com/containerd/errdefs"

	"strata/backend/internal/run"
)

// tool runs zfs(8) or zpool(8), and adds to an error its class and what to do about it.
func tool(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	out, err := run.Output(ctx, stdin, args...)
	switch {
	case err == nil:
		return out, nil
	case errors.Is(err, exec.ErrNotFound):
		return nil, fmt.Errorf("%w: the zfs tools of the kernel module's version are needed (Debian: zfsutils-linux); a managed plugin uses the host's: docker plugin set PLUGIN host.source=/", err)
	case run.Said(err, "out of space", "No space left on device"):
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrResourceExhausted)
	case run.Said(err, "I/O is currently suspended"):
		return nil, fmt.Errorf("%w: see zpool status: %w", err, errdefs.ErrUnavailable)
	case run.Said(err, "Permission denied", "permission denied", "must be run as root"):
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrPermissionDenied)
	case run.Said(err, "internal error", "error while loading shared libraries", "modules cannot be auto-loaded", "ZFS modules are not loaded"):
		return nil, fmt.Errorf("%w: have the zfs tools and the kernel module the same version? see zfs version: %w", err, errdefs.ErrFailedPrecondition)
	}
	return nil, err
}
