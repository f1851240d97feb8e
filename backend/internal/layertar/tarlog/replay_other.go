//go:build !linux

package tarlog

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
)

// Replay needs Linux.
func (l *Log) Replay(context.Context, io.Writer, string) error {
	return fmt.Errorf("replaying a tar log needs Linux: %w", errdefs.ErrNotImplemented)
}
