package snapshotter

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/log"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"gotest.tools/v3/assert"

	"strata/backend/backendtest"
	"strata/backend/store"
)

// raw lets bytes be a message.
type raw struct{}

func (raw) Name() string                    { return "proto" }
func (raw) Marshal(v any) ([]byte, error)   { return *v.(*[]byte), nil }
func (raw) Unmarshal(b []byte, v any) error { *v.(*[]byte) = slices.Clone(b); return nil }
func (raw) String() string                  { return "raw" }

// steady gives the snapshot called active an ID that is known beforehand.
type steady struct{ *store.Store }

const steadyID = "active-id"

func (s steady) StatID(ctx context.Context, id string) (store.Info, error) {
	if id == steadyID {
		return s.Stat(ctx, Prefix+"active")
	}
	return s.Store.StatID(ctx, id)
}

// wire is a server of a snapshotter and a differ, whose store is another one for each request.
type wire struct {
	store *store.Store
	conn  *grpc.ClientConn
	blob  ocispec.Descriptor
}

func (w *wire) hostPath(path string) string {
	if i, err := w.store.Stat(context.Background(), Prefix+"active"); err == nil && filepath.Base(path) == i.ID {
		return "/s/" + steadyID
	}
	return path
}

func newWire(f *testing.F) *wire {
	f.Helper()
	w := &wire{}
	s := New(Options{Store: func(context.Context) (Layers, error) { return steady{w.store}, nil }, HostPath: w.hostPath})
	b := newBlobs(f)
	w.blob = b.add(ocispec.MediaTypeImageLayerGzip, zip(f, layer(f, "a", "b")))
	l := bufconn.Listen(1 << 20)
	server := NewServer(s, NewDiffer(s, b), nil)
	go func() { _ = server.grpc.Serve(l) }() // ends when it is stopped
	conn, err := grpc.NewClient("passthrough:", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	assert.NilError(f, err)
	w.conn = conn
	f.Cleanup(func() {
		assert.Check(f, conn.Close())
		server.grpc.Stop()
	})
	return w
}

// fill makes a store with a committed snapshot, an active one on it, and a view of it.
func (w *wire) fill(t *testing.T) {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{
		Root: filepath.Join(t.TempDir(), "s"), Backend: "dir", New: backendtest.NewDir, Sync: store.SyncNone,
	})
	assert.NilError(t, err)
	t.Cleanup(func() { assert.Check(t, s.Close(context.WithoutCancel(t.Context()))) })
	w.store = s
	r := rig{New(Options{Store: func(context.Context) (Layers, error) { return s, nil }}), t, s}
	r.commit("base")
	_, err = r.Prepare(t.Context(), "active", "", snapshots.WithLabels(map[string]string{"a": "1"}))
	assert.NilError(t, err)
	_, err = r.View(t.Context(), "view", "base")
	assert.NilError(t, err)
}

// call sends a request, whatever it is, and reads all answers.
func (w *wire) call(t *testing.T, method, namespace string, body []byte) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if namespace != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "containerd-namespace", namespace)
	}
	stream, err := w.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method, grpc.ForceCodec(raw{}))
	if err != nil {
		return err
	}
	if err := stream.SendMsg(&body); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		var answer []byte
		if err := stream.RecvMsg(&answer); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// methods are all that the server has, in an order that stays.
func methods() (list []string) {
	for _, s := range []grpc.ServiceDesc{snapshotsapi.Snapshots_ServiceDesc, diffapi.Diff_ServiceDesc} {
		for _, m := range s.Methods {
			list = append(list, "/"+s.ServiceName+"/"+m.MethodName)
		}
		for _, m := range s.Streams {
			list = append(list, "/"+s.ServiceName+"/"+m.StreamName)
		}
	}
	slices.Sort(list)
	return list
}

// requests are what fuzzing begins with.
func (w *wire) requests() map[string][]proto.Message {
	hostile := map[string]string{"strata/kind": "view", "containerd.io/snapshot/max-size": "-1", "": "x"}
	idmap := map[string]string{snapshots.LabelSnapshotUIDMapping: "0:1:2", snapshots.LabelSnapshotGIDMapping: "0:4294967295:1"}
	own := []*types.Mount{{Type: "bind", Source: "/s/" + steadyID, Options: []string{"bind", "rw"}}}
	overlay := []*types.Mount{{Type: "overlay", Source: "overlay", Options: []string{"upperdir=/s/" + steadyID, "lowerdir=:::", "="}}}
	blob := &types.Descriptor{MediaType: w.blob.MediaType, Digest: w.blob.Digest.String(), Size: w.blob.Size}
	return map[string][]proto.Message{
		"Prepare": {
			&snapshotsapi.PrepareSnapshotRequest{Key: "k", Parent: "base", Labels: idmap},
			&snapshotsapi.PrepareSnapshotRequest{Key: "../..", Parent: "active", Labels: hostile},
			&snapshotsapi.PrepareSnapshotRequest{Key: "k", Labels: map[string]string{LabelLayer: "x", snapshots.LabelSnapshotRef: "y"}},
		},
		"View":    {&snapshotsapi.ViewSnapshotRequest{Key: "k", Parent: "base", Labels: map[string]string{"a": "b"}}},
		"Mounts":  {&snapshotsapi.MountsRequest{Key: "active"}},
		"Commit":  {&snapshotsapi.CommitSnapshotRequest{Name: "c", Key: "active", Parent: "base", Labels: map[string]string{"a": "b"}}},
		"Remove":  {&snapshotsapi.RemoveSnapshotRequest{Key: "active"}},
		"Stat":    {&snapshotsapi.StatSnapshotRequest{Key: "view"}},
		"Usage":   {&snapshotsapi.UsageRequest{Key: "active"}},
		"Cleanup": {&snapshotsapi.CleanupRequest{}},
		"List":    {&snapshotsapi.ListSnapshotsRequest{}, &snapshotsapi.ListSnapshotsRequest{Filters: []string{"kind==active,labels.\"a\"~=.*", "=="}}},
		"Update": {
			&snapshotsapi.UpdateSnapshotRequest{},
			&snapshotsapi.UpdateSnapshotRequest{
				Info:       &snapshotsapi.Info{Name: "active", Labels: map[string]string{"a": "2"}, CreatedAt: &timestamppb.Timestamp{Seconds: 1 << 62}},
				UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"labels.a", "labels"}},
			},
			&snapshotsapi.UpdateSnapshotRequest{Info: &snapshotsapi.Info{Name: "base"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"labels.strata/kind"}}},
		},
		"Apply": {
			&diffapi.ApplyRequest{},
			&diffapi.ApplyRequest{Diff: blob, Mounts: own, Payloads: map[string]*anypb.Any{"x": {TypeUrl: "y"}}, SyncFs: true},
			&diffapi.ApplyRequest{Diff: blob, Mounts: overlay},
			&diffapi.ApplyRequest{Diff: &types.Descriptor{MediaType: w.blob.MediaType, Digest: "sha256:../../x"}, Mounts: own},
		},
		"Diff": {
			&diffapi.DiffRequest{},
			&diffapi.DiffRequest{Left: overlay, Right: own, MediaType: ocispec.MediaTypeImageLayerZstd, Ref: "r", Labels: hostile},
			&diffapi.DiffRequest{Right: own, SourceDateEpoch: &timestamppb.Timestamp{Nanos: -1}},
			&diffapi.DiffRequest{Right: own, MediaType: ocispec.MediaTypeImageLayer},
		},
	}
}

// FuzzRequests sends any bytes to any method. There is no panic, no failure that has no class, and no snapshot gets lost.
func FuzzRequests(f *testing.F) {
	if os.Geteuid() != 0 {
		f.Skip("needs root: mounts layers")
	}
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	log.L = logrus.NewEntry(logger)
	w := newWire(f)
	all := methods()
	requests := w.requests()
	for i, method := range all {
		seeds := requests[filepath.Base(method)]
		assert.Assert(f, len(seeds) > 0, "%s", method)
		for _, m := range seeds {
			body, err := proto.Marshal(m)
			assert.NilError(f, err)
			f.Add(uint8(i), "first", body)
			f.Add(uint8(i), "", body)
		}
	}
	f.Fuzz(func(t *testing.T, method uint8, namespace string, body []byte) {
		if strings.ContainsFunc(namespace, func(r rune) bool { return r < ' ' || r > '~' }) {
			return // package grpc refuses it
		}
		w.fill(t)
		name := all[int(method)%len(all)]
		checkStatus(t, name, w.call(t, name, namespace, body))
		layers, err := w.store.List(t.Context())
		assert.NilError(t, err)
		for _, l := range layers {
			assert.Assert(t, isSnapshot(l), "%v", l)
		}
	})
}

// checkStatus accepts errors that say what is wrong with a request.
func checkStatus(t *testing.T, method string, err error) {
	t.Helper()
	s := status.Convert(err)
	told := []codes.Code{
		codes.OK, codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.FailedPrecondition, codes.Unimplemented, codes.DataLoss,
	}
	noMessage := s.Code() == codes.Internal && strings.Contains(s.Message(), "unmarshal") // package grpc's own
	assert.Assert(t, noMessage || slices.Contains(told, s.Code()), "%s: %v: %s", method, s.Code(), s.Message())
}
