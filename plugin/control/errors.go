package control

import (
	"net/http"

	"strata/plugin"
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
func (e *Error) Unwrap() error { return plugin.ClassNamed(e.Class) }

// statusOf returns the HTTP status for a class of errors.
func statusOf(class string) int {
	switch class {
	case "invalid-argument":
		return http.StatusBadRequest
	case "permission-denied":
		return http.StatusForbidden
	case "not-found":
		return http.StatusNotFound
	case "already-exists", "conflict":
		return http.StatusConflict
	case "failed-precondition":
		return http.StatusPreconditionFailed
	case "not-implemented":
		return http.StatusNotImplemented
	case "unavailable":
		return http.StatusServiceUnavailable
	case "resource-exhausted":
		return http.StatusInsufficientStorage
	}
	return http.StatusInternalServerError
}

// NewError gives an error its wire form, with a text for people.
func NewError(err error) *Error {
	e, _ := classified(err)
	return e
}

func classified(err error) (e *Error, status int) {
	e = &Error{Text: plugin.Plain(err.Error()), Class: plugin.Class(err)}
	return e, statusOf(e.Class)
}

// toWire gives an error its wire form and HTTP status.
func (s *server) toWire(err error) (*Error, int) {
	e, status := classified(err)
	e.Text = s.HostText(e.Text)
	return e, status
}
