//go:build !linux

package pack

import (
	"context"
	"fmt"
	"io"
	"iter"

	"github.com/containerd/errdefs"

	"strata/backend"
)

// Changes needs Linux.
func Changes(context.Context, io.Writer, string, iter.Seq2[backend.Change, error], Options) error {
	return fmt.Errorf("packing a layer tar needs Linux: %w", errdefs.ErrNotImplemented)
}
