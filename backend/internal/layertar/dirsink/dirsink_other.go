//go:build !linux

package dirsink

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"strata/backend"
)

func notHere(what string) error {
	return fmt.Errorf("%s needs Linux: %w", what, errdefs.ErrNotImplemented)
}

// New returns a sink that needs Linux.
func New(string, Options) backend.Sink { return nowhere{} }

// nowhere is a sink that takes nothing.
type nowhere struct{ backend.Sink }

func (nowhere) Begin(context.Context, backend.Unpacker) error {
	return notHere("unpacking a layer tar")
}

func (nowhere) Close() error { return nil }

// Open needs Linux.
func Open(string) (backend.Source, error) { return nil, notHere("reading a layer") }

// Settle needs Linux.
func Settle(context.Context, string, Options) error { return notHere("settling a layer") }

// Flush needs Linux.
func Flush(context.Context, string) error { return notHere("flushing a file system") }
