package snapshotter

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"gotest.tools/v3/assert"

	"strata/plugin"
)

// TestServeThatIsOverBeforeItBegins: SIGTERM may come at any time.
func TestServeThatIsOverBeforeItBegins(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		path := filepath.Join(t.TempDir(), "s")
		l, err := plugin.Listen(t.Context(), path)
		assert.NilError(t, err)
		assert.NilError(t, NewServer(New(Options{}), nil, nil).Serve(ctx, l))
		_, err = os.Lstat(path)
		assert.ErrorIs(t, err, os.ErrNotExist)
	}
}

// TestServeEndsInTime whatever its clients and the store do.
func TestServeEndsInTime(t *testing.T) {
	busy, never := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(never) })
	hangs := New(Options{Store: func(context.Context) (Layers, error) {
		close(busy)
		<-never
		return nil, context.Canceled
	}})
	for _, tc := range []struct {
		name   string
		client func(t *testing.T, socket string)
	}{
		{"client that says nothing", func(t *testing.T, socket string) {
			conn, err := new(net.Dialer).DialContext(t.Context(), "unix", socket)
			assert.NilError(t, err)
			t.Cleanup(func() { assert.Check(t, conn.Close()) })
			time.Sleep(100 * time.Millisecond) // to be accepted
		}},
		{"store that hangs", func(t *testing.T, socket string) {
			conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
			assert.NilError(t, err)
			t.Cleanup(func() { assert.Check(t, conn.Close()) })
			go func() {
				_, _ = proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "strata").Stat(t.Context(), "key")
			}()
			<-busy
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "s")
			l, err := plugin.Listen(t.Context(), socket)
			assert.NilError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			s := NewServer(hangs, nil, nil)
			s.drain = 100 * time.Millisecond
			served := make(chan error, 1)
			go func() { served <- s.Serve(ctx, l) }()
			tc.client(t, socket)
			cancel()
			select {
			case err := <-served:
				assert.ErrorIs(t, err, context.DeadlineExceeded)
			case <-time.After(4 * time.Second):
				t.Fatal("the server does not end")
			}
		})
	}
}

// TestLongNames: what is refused comes back as an error of its class, on a connection that goes on, and the log stays readable.
func TestLongNames(t *testing.T) {
	var out weight
	logger := log.L.Logger
	hooks := logger.ReplaceHooks(logrus.LevelHooks{})
	t.Cleanup(func() { logger.ReplaceHooks(hooks) })
	logger.AddHook(&out)
	r := newRig(t, Options{})
	client := snapshotsapi.NewSnapshotsClient(dial(t, r.Snapshotter, nil, nil))
	long := strings.Repeat("\x01", 4<<20)
	for what, tc := range map[string]struct {
		call func() error
		code codes.Code
	}{
		"stat": {func() error { return second(client.Stat(t.Context(), &snapshotsapi.StatSnapshotRequest{Key: long})) }, codes.NotFound},
		"prepare": {func() error {
			return second(client.Prepare(t.Context(), &snapshotsapi.PrepareSnapshotRequest{Key: long}))
		}, codes.InvalidArgument},
		"parent": {func() error {
			return second(client.View(t.Context(), &snapshotsapi.ViewSnapshotRequest{Key: "k", Parent: long}))
		}, codes.NotFound},
		"filter": {func() error {
			stream, err := client.List(t.Context(), &snapshotsapi.ListSnapshotsRequest{Filters: []string{long}})
			assert.NilError(t, err)
			return second(stream.Recv())
		}, codes.InvalidArgument},
	} {
		err := tc.call()
		assert.Equal(t, status.Code(err), tc.code, "%s: %.300v", what, err)
		assert.Assert(t, len(err.Error()) < 2*plugin.MaxText, "%s: %d", what, len(err.Error()))
	}
	assert.Assert(t, out.Load() > 0 && out.Load() < 20*plugin.MaxText, "%d", out.Load())
}

// weight is how many bytes are logged.
type weight struct{ atomic.Int64 }

func (w *weight) Levels() []logrus.Level { return logrus.AllLevels }

func (w *weight) Fire(e *logrus.Entry) error {
	text, err := e.Bytes()
	w.Add(int64(len(text)))
	return err
}
