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
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"strata/plugin"
)

const (
	// handshakeTimeout bounds the beginning of a connection, as net/http does when it shuts down. Until then package grpc stops
	// neither politely nor firmly.
	handshakeTimeout = 5 * time.Second
	// abortGrace is how long requests have to notice that they were told to stop.
	abortGrace = time.Second
	// maxStreams is how many requests of a connection are served at once. Its client lets the others wait.
	maxStreams = 256
	// maxHeader bounds what comes with a request besides its message, bytes: the namespace, a lease, what traces calls.
	maxHeader = 64 << 10
)

// Server serves containerd's snapshots API and diff API.
type Server struct {
	grpc  *grpc.Server
	drain time.Duration
}

// NewServer makes a server for s, and for d unless it is nil. o, unless that is nil, is told about every call.
func NewServer(s *Snapshotter, d *Differ, o plugin.Observer) *Server {
	w := witness{o}
	g := grpc.NewServer(
		grpc.ChainUnaryInterceptor(w.call, s.onHost, guardCall, whole, passOn),
		grpc.ChainStreamInterceptor(w.stream, s.onHostStream, guardStream),
		grpc.MaxRecvMsgSize(defaults.DefaultMaxRecvMsgSize),
		grpc.MaxSendMsgSize(defaults.DefaultMaxSendMsgSize),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(maxHeader),
		grpc.ConnectionTimeout(handshakeTimeout),
	)
	snapshotsapi.RegisterSnapshotsServer(g, snapshotservice.FromSnapshotter(s))
	if d != nil {
		diffapi.RegisterDiffServer(g, diffservice.FromApplierAndComparer(d, d))
	}
	return &Server{grpc: g, drain: plugin.DefaultDrain}
}

// Serve answers requests until ctx ends. Then it closes l, lets requests in progress go on for a while, cancels those
// that remain, and waits for none that does not notice. It returns nil when every request ended by itself,
// context.DeadlineExceeded when some had to be stopped, and at once if l fails.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	l = plugin.LimitConns(l)
	failed := make(chan error, 1)
	go func() { failed <- s.grpc.Serve(l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	if ended(s.grpc.GracefulStop, s.drain) {
		<-failed //nolint:errcheck // l is closed, even if it was not served yet; why is known
		return nil
	}
	ended(s.grpc.Stop, abortGrace)
	return fmt.Errorf("drain: requests stopped after %v: %w", s.drain, context.DeadlineExceeded)
}

// ended says whether stop returns in time.
func ended(stop func(), patience time.Duration) bool {
	done := make(chan struct{})
	go func() {
		stop()
		close(done)
	}()
	select {
	case <-done:
		return true
	case <-time.After(patience):
		return false
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

// onHost tells errors with the host's paths, which are containerd's.
func (s *Snapshotter) onHost(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	resp, err := next(ctx, req)
	return resp, s.hostError(err)
}

// onHostStream does the same for streams, whose errors containerd's code (contrib/snapshotservice, List) leaves without their class.
func (s *Snapshotter) onHostStream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	return s.hostError(errgrpc.ToGRPC(next(srv, stream)))
}

func (s *Snapshotter) hostError(err error) error {
	st, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	told := st.Proto() // a copy
	told.Message = s.o.HostText(plugin.Brief(told.GetMessage(), plugin.MaxText))
	return status.ErrorProto(told)
}

// whole refuses requests without what containerd's code (contrib/snapshotservice, contrib/diffservice) looks into without a look.
func whole(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	switch r := req.(type) {
	case *snapshotsapi.UpdateSnapshotRequest:
		if r.GetInfo() == nil {
			return nil, status.Error(codes.InvalidArgument, "update: the request names no snapshot")
		}
	case *diffapi.ApplyRequest:
		if r.GetDiff() == nil {
			return nil, status.Error(codes.InvalidArgument, "apply: the request names no blob")
		}
	}
	return next(ctx, req)
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
