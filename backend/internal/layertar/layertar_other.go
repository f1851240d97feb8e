//go:build !linux

package layertar

import (
	"context"
	"fmt"
	"io"
	"iter"

	"github.com/containerd/errdefs"

	"strata/backend"
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

// WriteChanges needs Linux.
func WriteChanges(context.Context, io.Writer, string, iter.Seq2[backend.Change, error], WriteOptions) error {
	return notHere("packing a layer tar")
}

// Flush needs Linux.
func Flush(context.Context, string) error { return notHere("flushing a file system") }

// Replay needs Linux.
func (l *Log) Replay(context.Context, io.Writer, string) error {
	return notHere("replaying a tar log")
}
