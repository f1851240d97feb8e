package snapshotter

import (
	"context"
	"fmt"
	"net"
	"runtime/debug"
	"time"

	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/diffservice"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/log"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"strata/plugin"
)

// Server serves containerd's snapshots API and diff API.
type Server struct {
	grpc  *grpc.Server
	drain time.Duration
}

// NewServer makes a server for s, and for d unless it is nil.
func NewServer(s *Snapshotter, d *Differ) *Server {
	g := grpc.NewServer(
		grpc.ChainUnaryInterceptor(guardCall, passOn),
		grpc.ChainStreamInterceptor(guardStream),
		grpc.MaxRecvMsgSize(defaults.DefaultMaxRecvMsgSize),
		grpc.MaxSendMsgSize(defaults.DefaultMaxSendMsgSize),
	)
	snapshotsapi.RegisterSnapshotsServer(g, snapshotservice.FromSnapshotter(s))
	if d != nil {
		diffapi.RegisterDiffServer(g, diffservice.FromApplierAndComparer(d, d))
	}
	return &Server{grpc: g, drain: plugin.DefaultDrain}
}

// Serve answers requests until ctx ends. Then it closes l, lets requests in progress go on for a while, and cancels those
// that remain. It returns nil when every request ended by itself, context.DeadlineExceeded when some had to be stopped, and
// at once if l fails.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	failed := make(chan error, 1)
	go func() { failed <- s.grpc.Serve(l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	drained := make(chan struct{})
	go func() {
		s.grpc.GracefulStop()
		close(drained)
	}()
	select {
	case <-drained:
		return nil
	case <-time.After(s.drain):
		s.grpc.Stop() // ends GracefulStop, too
		<-drained
		return fmt.Errorf("drain: requests stopped after %v: %w", s.drain, context.DeadlineExceeded)
	}
}

// errPanic is what a client is told of a panic, which is in the log.
var errPanic = status.Error(codes.Internal, "strata: a bug, see its log")

// guard turns a panic of a call into its error.
func guard(ctx context.Context, call string, err *error) {
	if r := recover(); r != nil {
		log.G(ctx).WithField("call", call).Errorf("panic: %v\n%s", r, debug.Stack())
		*err = errPanic
	}
}

func guardCall(ctx context.Context, req any, i *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	defer guard(ctx, i.FullMethod, &err)
	return next(ctx, req)
}

func guardStream(srv any, stream grpc.ServerStream, i *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	defer guard(stream.Context(), i.FullMethod, &err)
	return next(srv, stream)
}

// passOn lets what a Differ asks of containerd happen in the namespace and under the lease of the one who asked it.
func passOn(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if ns, ok := namespaces.Namespace(ctx); ok {
		ctx = namespaces.WithNamespace(ctx, ns)
	}
	if lease, ok := leases.FromContext(ctx); ok {
		ctx = leases.WithLease(ctx, lease)
	}
	return next(ctx, req)
}
