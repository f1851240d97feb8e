package snapshotter

import (
	"context"
	"path"
	"strings"
	"time"

	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"google.golang.org/grpc"

	"strata/plugin"
)

// witness logs and counts calls.
type witness struct{ observer plugin.Observer }

func (w witness) call(ctx context.Context, req any, i *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	start := time.Now()
	resp, err := next(ctx, req)
	c := newCall(i.FullMethod, start, err)
	c.Fields = fields(req)
	c.In, c.Out = moved(resp)
	c.Report(ctx, w.observer)
	return resp, err
}

func (w witness) stream(srv any, stream grpc.ServerStream, i *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	start := time.Now()
	err := next(srv, stream)
	newCall(i.FullMethod, start, err).Report(stream.Context(), w.observer)
	return err
}

// newCall describes a call of a method like /containerd.services.snapshots.v1.Snapshots/Prepare.
func newCall(method string, start time.Time, err error) plugin.Call {
	c := plugin.Call{Protocol: plugin.ProtocolSnapshots, Op: path.Base(method), Took: time.Since(start), Err: errgrpc.ToNative(err)}
	if strings.Contains(method, ".diff.") {
		c.Protocol = plugin.ProtocolDiff
	}
	c.Expected = expected(c)
	return c
}

// expected tells that containerd asks by making the call: it looks for a snapshot before it makes it, makes it without
// looking, and offers a differ what may not be for it.
func expected(c plugin.Call) bool {
	switch c.Op {
	case "Stat", "Usage", "Mounts", "Remove":
		return errdefs.IsNotFound(c.Err)
	case "Prepare", "View", "Commit":
		return errdefs.IsAlreadyExists(c.Err)
	case "Apply", "Diff":
		return errdefs.IsNotImplemented(c.Err)
	}
	return false
}

// fields says what a call is about, for the log.
func fields(req any) log.Fields {
	f := log.Fields{}
	const most = 255 // bytes that a layer can be called
	add := func(name, value string) {
		if value != "" {
			f[name] = plugin.Brief(value, most)
		}
	}
	switch r := req.(type) {
	case *snapshotsapi.CommitSnapshotRequest:
		add("snapshot", r.GetKey())
		add("as", r.GetName())
	case *snapshotsapi.UpdateSnapshotRequest:
		add("snapshot", r.GetInfo().GetName())
	case interface{ GetKey() string }:
		add("snapshot", r.GetKey())
	case *diffapi.ApplyRequest:
		add("blob", r.GetDiff().GetDigest())
	}
	if r, ok := req.(interface{ GetParent() string }); ok {
		add("parent", r.GetParent())
	}
	return f
}

// moved returns how many bytes of layers came from containerd, as a tar, and went to it, as a blob.
func moved(resp any) (in, out int64) {
	switch r := resp.(type) {
	case *diffapi.ApplyResponse:
		return r.GetApplied().GetSize(), 0
	case *diffapi.DiffResponse:
		return 0, r.GetDiff().GetSize()
	}
	return 0, 0
}
