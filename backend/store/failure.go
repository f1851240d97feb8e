package store

import (
	"errors"
	"fmt"
	"io"
	"syscall"

	"github.com/containerd/errdefs"
)

// layerError says of an error what was done and to which layer: its name, and the ID that its data has in the backend.
// The error gets its class. A nil error stays nil. It must not be called under Store.mu.
func (s *Store) layerError(verb string, l *layer, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s layer %q (%s): %w", verb, s.snapshot(l).Name, s.describe(l).ID, classify(err))
}

// backendError is layerError for what concerns the backend as a whole.
func (s *Store) backendError(verb string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s backend %s: %w", verb, s.meta.Backend, classify(err))
}

// classed is an error with a class of package errdefs, which its text does not name.
type classed struct {
	error
	class error
}

func (e classed) Unwrap() []error { return []error{e.error, e.class} }

// classify gives errors of the kernel a class that front ends can tell to their clients. An error that has a class
// already keeps it.
func classify(err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return classed{err, errdefs.ErrResourceExhausted}
	case errors.Is(err, io.ErrUnexpectedEOF):
		return classed{fmt.Errorf("the stream ended too early: %w", err), errdefs.ErrDataLoss}
	case errdefs.Resolve(err) != errdefs.ErrUnknown: //nolint:errorlint // Resolve returns the class itself
		return err
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		return classed{err, errdefs.ErrPermissionDenied}
	}
	return err
}
