//go:build !linux

package unpack

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
)

func notHere(what string) error {
	return fmt.Errorf("%s needs Linux: %w", what, errdefs.ErrNotImplemented)
}

// Apply needs Linux.
func Apply(context.Context, string, io.Reader, Options) (Result, error) {
	return Result{}, notHere("unpacking a layer tar")
}

// Settle needs Linux.
func Settle(context.Context, string, Options) error { return notHere("settling a layer") }

// Flush needs Linux.
func Flush(context.Context, string) error { return notHere("flushing a file system") }
