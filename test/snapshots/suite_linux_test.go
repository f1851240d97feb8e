package snapshots

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
	"github.com/containerd/log"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"strata/backend"
	"strata/backend/all"
	"strata/backend/backendtest"
	"strata/backend/store"
	"strata/plugin"
	"strata/plugin/snapshotter"
)

func TestMain(m *testing.M) {
	// containerd mounts snapshots of many layers in a thread with a working directory among them, which Go then ends; but it
	// cannot end the first thread, and the file system would stay busy. So nothing else may run in that.
	runtime.LockOSThread()
	log.L.Logger.SetOutput(io.Discard)
	os.Exit(backendtest.Main(m))
}

const gigabyte = 1 << 30

func TestSuite(t *testing.T) {
	for _, d := range all.Backends() {
		t.Run(d.Name, func(t *testing.T) {
			backendtest.EachGround(t, d, func(t *testing.T, f backendtest.Factory) {
				disk := backendtest.LoopFS(t, f.FS, gigabyte, "")
				testsuite.SnapshotterSuite(t, d.Like, func(ctx context.Context, _ string) (snapshots.Snapshotter, func() error, error) {
					dir, err := os.MkdirTemp(disk, "store-")
					if err != nil {
						return nil, nil, err
					}
					return serve(context.WithoutCancel(ctx), dir, d)
				})
			})
		})
	}
}

// TestPrepared: the suite holds for a backend that has to prepare something for the mounts, too.
func TestPrepared(t *testing.T) {
	active := backend.Driver{
		Name: "active", Config: func() any { return nil },
		Open: func(ctx context.Context, env backend.Env, _ any) (backend.Backend, error) {
			return backendtest.NewActive(ctx, env)
		},
	}
	disk := backendtest.LoopFS(t, "ext4", gigabyte, "")
	testsuite.SnapshotterSuite(t, "native", func(ctx context.Context, _ string) (snapshots.Snapshotter, func() error, error) {
		dir, err := os.MkdirTemp(disk, "store-")
		if err != nil {
			return nil, nil, err
		}
		return serve(context.WithoutCancel(ctx), dir, active)
	})
}

// serve opens a store in dir, serves it on a socket, and returns containerd's client for it.
func serve(ctx context.Context, dir string, b backend.Driver) (snapshots.Snapshotter, func() error, error) {
	st, err := store.Open(ctx, store.Config{
		Root: filepath.Join(dir, "strata"), Backend: b.Name, ExactDiffs: true,
		New: func(ctx context.Context, env backend.Env) (backend.Backend, error) {
			return b.Open(ctx, env, b.Config())
		},
	})
	if err != nil {
		return nil, nil, err
	}
	socket := filepath.Join(dir, "s.sock")
	l, err := plugin.Listen(ctx, socket)
	if err != nil {
		return nil, nil, err
	}
	sn := snapshotter.New(snapshotter.Options{Store: func(context.Context) (snapshotter.Layers, error) { return st, nil }})
	serving, cancel := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- snapshotter.NewServer(sn, nil, nil).Serve(serving, l) }()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		cancel()
		return nil, nil, err
	}
	client := proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "strata")
	end := func() error {
		err := errors.Join(removeAll(ctx, client), conn.Close())
		cancel()
		return errors.Join(err, <-served, st.Settle(ctx), st.Close(ctx))
	}
	return client, end, nil
}

// removeAll removes all snapshots, children first.
func removeAll(ctx context.Context, s snapshots.Snapshotter) error {
	var left []snapshots.Info
	err := s.Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		left = append(left, i)
		return nil
	})
	for err == nil && len(left) > 0 {
		parents := map[string]bool{}
		for _, i := range left {
			parents[i.Parent] = true
		}
		left = slices.DeleteFunc(left, func(i snapshots.Info) bool {
			if parents[i.Name] {
				return false
			}
			err = errors.Join(err, s.Remove(ctx, i.Name))
			return true
		})
	}
	return err
}
