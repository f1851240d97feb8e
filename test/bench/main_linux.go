package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"time"

	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/diffservice"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"strata/test/bench/null"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 && args[0] == "null" {
		return serveNull(ctx, args[1:])
	}
	if len(args) > 0 && args[0] == "null-snapshotter" {
		return serveNullSnapshotter(ctx, args[1:])
	}
	o, err := parse(args)
	if err != nil {
		return err
	}
	return bench(ctx, o)
}

func bench(ctx context.Context, o options) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("needs root")
	}
	if o.dir == "" {
		if o.dir, err = os.MkdirTemp("/var/tmp", "strata-bench-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(o.dir)) }()
	}
	w, err := openWorkloads(ctx, o.dir, o)
	if err != nil || o.make {
		return err
	}
	t := newTable()
	for _, level := range []struct {
		name string
		run  func(context.Context, options, *workloads, *table) error
	}{
		{"driver", benchDriver},
		{"docker", benchDocker},
		{"scale", benchScale},
		{"snapshotter", benchSnapshotter},
		{"suite", benchSuite},
	} {
		if !has(o.level, level.name) {
			continue
		}
		if err := level.run(ctx, o, w, t); err != nil {
			return err
		}
	}
	if o.sample != "" {
		if err := t.writeSamples(o.sample); err != nil {
			return err
		}
	}
	return t.write(os.Stdout, o)
}

// serveNull runs the null driver on a socket until it is told to end.
func serveNull(ctx context.Context, args []string) error {
	set := flag.NewFlagSet("bench null", flag.ContinueOnError)
	socket := set.String("socket", "", "`path` of the socket")
	d := &null.Driver{}
	set.StringVar(&d.Dir, "dir", "", "`directory` for empty directories")
	set.BoolVar(&d.Exact, "exact", true, "claim exact diffs")
	if err := set.Parse(args); err != nil {
		return err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", *socket)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: d, ReadHeaderTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() }) // what is served is worth nothing
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// serveNullSnapshotter does so for containerd.
func serveNullSnapshotter(ctx context.Context, args []string) error {
	set := flag.NewFlagSet("bench null-snapshotter", flag.ContinueOnError)
	socket := set.String("socket", "", "`path` of the socket")
	s := &null.Snapshotter{}
	set.StringVar(&s.Blobs, "blobs", "", "containerd's `directory` of blobs")
	if err := set.Parse(args); err != nil {
		return err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", *socket)
	if err != nil {
		return err
	}
	g := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(g, snapshotservice.FromSnapshotter(s))
	diffapi.RegisterDiffServer(g, diffservice.FromApplierAndComparer(s, s))
	stop := context.AfterFunc(ctx, g.Stop) // what is served is worth nothing
	defer stop()
	return g.Serve(l)
}

// progress tells on standard error what is going on.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}
