package layertar

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Flush makes everything in the file system that holds dir durable, a layer applied to it before
// included: syncfs(2), which on ext4, xfs and btrfs also reports errors of earlier write-back.
func Flush(ctx context.Context, dir string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	fd, err := openRoot(dir)
	if err != nil {
		return err
	}
	if err := errors.Join(unix.Syncfs(fd), unix.Close(fd)); err != nil {
		return fmt.Errorf("flush file system of %s: %w", dir, err)
	}
	return nil
}
