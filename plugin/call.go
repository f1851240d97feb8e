package plugin

import (
	"context"
	"errors"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
)

// Protocols by which clients reach a store.
const (
	ProtocolGraphDriver = "graphdriver" // Docker's
	ProtocolSnapshots   = "snapshots"   // containerd's
	ProtocolDiff        = "diff"        // containerd's
)

// Call is a request that a front end has answered.
type Call struct {
	Protocol string
	Op       string     // the method, as the protocol calls it
	Fields   log.Fields // what else the log is to say, such as the layer
	Took     time.Duration
	In, Out  int64 // bytes of layers that came from the client, and went to it
	Err      error
	// Expected says that Err is the answer to a question, such as whether a snapshot is there.
	Expected bool
}

// Observer counts calls. Its method may be called concurrently.
type Observer interface {
	ObserveCall(c Call)
}

// Report writes one line to the log, of level error if the call failed and debug otherwise, and tells o, unless that is nil.
func (c Call) Report(ctx context.Context, o Observer) {
	if o != nil {
		o.ObserveCall(c)
	}
	entry := log.G(ctx).WithFields(c.Fields).WithFields(log.Fields{"protocol": c.Protocol, "op": c.Op, "took": c.Took})
	if c.Err == nil {
		entry.Debug(c.Op + " done")
		return
	}
	entry = entry.WithField("error", Brief(c.Err.Error(), MaxText)).WithField("class", Class(c.Err))
	if c.Expected {
		entry.Debug(c.Op + " answered with an error")
		return
	}
	entry.Error(c.Op + " failed")
}

// class is a class of errors and what it is called.
type class struct {
	name string
	err  error
}

func classes() []class {
	return []class{
		{"invalid-argument", errdefs.ErrInvalidArgument},
		{"not-found", errdefs.ErrNotFound},
		{"already-exists", errdefs.ErrAlreadyExists},
		{"failed-precondition", errdefs.ErrFailedPrecondition},
		{"conflict", errdefs.ErrConflict},
		{"unavailable", errdefs.ErrUnavailable},
		{"not-implemented", errdefs.ErrNotImplemented},
		{"resource-exhausted", errdefs.ErrResourceExhausted},
		{"permission-denied", errdefs.ErrPermissionDenied},
		{"data-loss", errdefs.ErrDataLoss},
		{"aborted", errdefs.ErrAborted},
	}
}

// Class returns what the log, the metrics and the control API call the class of an error, "" if it has none.
func Class(err error) string {
	for _, c := range classes() {
		if errors.Is(err, c.err) {
			return c.name
		}
	}
	return ""
}

// ClassNamed returns the error of github.com/containerd/errdefs that is the class of that name, nil for none.
func ClassNamed(name string) error {
	for _, c := range classes() {
		if c.name == name {
			return c.err
		}
	}
	return nil
}
