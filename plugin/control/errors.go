package control

import (
	"errors"
	"net/http"

	"github.com/containerd/errdefs"
)

// Error is a failure as it goes over the wire. Its class survives the journey: errdefs.IsNotFound
// and its like work on both ends.
type Error struct {
	Text  string `json:"error"`
	Class string `json:"class,omitempty"`
}

// Error returns the text.
func (e *Error) Error() string { return e.Text }

// Unwrap returns the class as an error of github.com/containerd/errdefs.
func (e *Error) Unwrap() error {
	for _, c := range classes() {
		if c.name == e.Class {
			return c.err
		}
	}
	return nil
}

type class struct {
	name   string
	status int
	err    error
}

func classes() []class {
	return []class{
		{"invalid-argument", http.StatusBadRequest, errdefs.ErrInvalidArgument},
		{"not-found", http.StatusNotFound, errdefs.ErrNotFound},
		{"already-exists", http.StatusConflict, errdefs.ErrAlreadyExists},
		{"failed-precondition", http.StatusPreconditionFailed, errdefs.ErrFailedPrecondition},
		{"conflict", http.StatusConflict, errdefs.ErrConflict},
		{"unavailable", http.StatusServiceUnavailable, errdefs.ErrUnavailable},
		{"not-implemented", http.StatusNotImplemented, errdefs.ErrNotImplemented},
		{"resource-exhausted", http.StatusInsufficientStorage, errdefs.ErrResourceExhausted},
		{"permission-denied", http.StatusForbidden, errdefs.ErrPermissionDenied},
		{"data-loss", http.StatusInternalServerError, errdefs.ErrDataLoss},
		{"aborted", http.StatusInternalServerError, errdefs.ErrAborted},
	}
}

// toWire gives an error its wire form and HTTP status.
func toWire(err error) (*Error, int) {
	for _, c := range classes() {
		if errors.Is(err, c.err) {
			return &Error{Text: err.Error(), Class: c.name}, c.status
		}
	}
	return &Error{Text: err.Error()}, http.StatusInternalServerError
}
