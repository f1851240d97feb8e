//go:build !linux

package treediff

import (
	"context"
	"fmt"
	"iter"

	"github.com/containerd/errdefs"

	"strata/backend"
)

// Changes compares two trees on Linux.
func Changes(_ context.Context, upper, _ string, _ Options) iter.Seq2[backend.Change, error] {
	return func(yield func(backend.Change, error) bool) {
		yield(backend.Change{}, fmt.Errorf("compare %s: needs Linux: %w", upper, errdefs.ErrNotImplemented))
	}
}
