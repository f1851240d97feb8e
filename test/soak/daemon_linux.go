package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"

	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/diff"
	diffproxy "github.com/containerd/containerd/v2/core/diff/proxy"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"strata/backend/backendtest"
	"strata/plugin/control"
	"strata/test/e2e/engine"
	"strata/test/unixhttp"
)

// Places in the machine.
const (
	dockerSocket     = "/run/strata/strata.sock"
	snapshotSocket   = "/run/strata/snapshotter.sock"
	containerdSocket = "/run/strata/containerd.sock" // where the program finds blobs
	storeRoot        = "/var/lib/strata"
	mountPlace       = "/run/soak" // where clients mount snapshots
)

// daemon is the program on its machine. Its methods are for one goroutine, but those that say otherwise.
type daemon struct {
	m     *engine.Machine
	o     options
	links atomic.Pointer[links]
	// dying is set from before the program is told to end until it serves again: what fails meanwhile was to be expected.
	dying atomic.Bool
}

// links are one run of the program and the connections to it.
type links struct {
	service   *engine.Service
	docker    *unixhttp.Client // and the control API, where control.Client has no word for it
	control   *control.Client
	conn      *grpc.ClientConn
	snapshots snapshots.Snapshotter
	differ    differ
}

// differ is what containerd has the program do with tars.
type differ interface {
	diff.Applier
	diff.Comparer
}

// bootDaemon makes the machine. Nothing serves yet.
func bootDaemon(ctx context.Context, o options) (*daemon, error) {
	m, err := engine.Boot(ctx, engine.Config{FS: o.fs, Bare: true})
	if err != nil {
		return nil, err
	}
	d := &daemon{m: m, o: o}
	for _, dir := range []string{mountPlace, "/run/strata"} {
		if err := os.MkdirAll(m.Path(dir), 0o700); err != nil {
			return nil, errors.Join(err, m.Close())
		}
	}
	return d, nil
}

// start has the program serve, and connects with it.
func (d *daemon) start(ctx context.Context) error {
	service, err := d.m.Serve(ctx, "strata", dockerSocket, d.o.strata, "serve",
		"--graphdriver-socket", dockerSocket, "--snapshotter-socket", snapshotSocket, "--containerd-socket", containerdSocket,
		"--option", "root="+storeRoot, "--option", "backend="+d.o.backend, "--option", "log-level=warn")
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient("unix://"+d.m.Path(snapshotSocket), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	differ, ok := diffproxy.NewDiffApplier(diffapi.NewDiffClient(conn)).(differ)
	if !ok {
		return errors.New("containerd's client for differs is none")
	}
	d.disconnect()
	d.links.Store(&links{
		service: service,
		docker:  unixhttp.Dial(d.m.Path(dockerSocket)), control: control.Dial(d.m.Path(dockerSocket)), conn: conn,
		snapshots: proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "strata"), differ: differ,
	})
	return nil
}

// to returns the connections to the program. It may be called by anybody, at any time after the first start.
func (d *daemon) to() *links { return d.links.Load() }

// disconnect lets go of the connections.
func (d *daemon) disconnect() {
	if l := d.links.Load(); l != nil {
		l.docker.Close()
		_ = l.control.Close() // idle connections only, and it cannot fail
		_ = l.conn.Close()    // to a program that is dead; nobody uses it
	}
}

// init says what Docker says first.
func (d *daemon) init(ctx context.Context) error {
	return d.to().docker.JSON(ctx, "POST", "/GraphDriver.Init", map[string]any{"Home": "/var/lib/docker/strata"}, nil)
}

// kill ends the program with SIGKILL.
func (d *daemon) kill() error {
	d.dying.Store(true)
	return d.to().service.Kill()
}

// stop ends it with SIGTERM.
func (d *daemon) stop() error {
	d.dying.Store(true)
	return d.to().service.Stop()
}

// alive tells whether the program runs. It may be called by anybody.
func (d *daemon) alive() bool {
	select {
	case <-d.to().service.Done():
		return false
	default:
		return true
	}
}

// takes returns the program's peak of resident memory, in bytes, and its descriptors. It may be called by anybody.
func (d *daemon) takes() (rss int64, descriptors int, err error) {
	procs, err := d.m.Find("strata")
	if err != nil || len(procs) == 0 {
		return 0, 0, err
	}
	rss, _, err = procs[0].RSS()
	if err != nil {
		return 0, 0, err
	}
	open, err := os.ReadDir(d.m.Path(fmt.Sprintf("/proc/%d/fd", procs[0].PID)))
	return rss, len(open), err
}

// close ends the machine, and keeps the program's log if that is wanted.
func (d *daemon) close() error {
	d.disconnect()
	var err error
	if l := d.to(); l != nil && d.o.log != "" {
		err = os.WriteFile(d.o.log, []byte(l.service.Log()), 0o600)
	}
	return errors.Join(err, d.m.Close())
}

// complaints are the lines of the program's log that speak of a mistake in it.
func (d *daemon) complaints() (lines []string) {
	for line := range strings.Lines(d.to().service.Log()) {
		for _, word := range []string{"DATA RACE", "panic:", "fatal error:", "a bug"} {
			if strings.Contains(line, word) {
				lines = append(lines, strings.TrimSpace(line))
			}
		}
	}
	return lines
}

// fill takes all room that the disk has, and returns what gives it back.
func (d *daemon) fill(ctx context.Context) (empty func() error, err error) {
	if d.o.fs == "zfs" {
		return d.fillPool(ctx)
	}
	ballast := d.m.Path("/var/lib/ballast")
	f, err := os.Create(ballast)
	if err != nil {
		return nil, err
	}
	err = errors.Join(takeRoom(f), f.Close())
	return func() error { return os.Remove(ballast) }, err
}

// fillPool takes the room of a pool, where a file can be given none in advance: it lowers what the pool may take, and writes the rest.
func (d *daemon) fillPool(ctx context.Context) (empty func() error, err error) {
	pool, ballast := d.m.Pool(), d.m.Path("/var/lib/ballast")
	set := func(ctx context.Context, quota string) error {
		_, err := engine.Output(d.m.Command(ctx, "zfs", "set", "quota="+quota, pool))
		return err
	}
	empty = func() error {
		return errors.Join(set(context.WithoutCancel(ctx), "none"), os.Remove(ballast))
	}
	const more = 48 << 20 // what may be written meanwhile
	lower := func() error {
		text, err := engine.Output(d.m.Command(ctx, "zfs", "get", "-Hpo", "value", "used", pool))
		if err != nil {
			return err
		}
		used, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return err
		}
		return set(ctx, strconv.FormatInt(used+more, 10))
	}
	for try := range 10 { // more may be written, or less
		if err = lower(); err == nil {
			break
		}
		progress("try %d: %v", try, err)
	}
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(ballast, backendtest.Noise(1, 2*more), 0o600); !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return nil, fmt.Errorf("fill pool %s: want no room, got %w", pool, err)
	}
	return empty, nil
}

// lastWords are the end of the program's log.
func (d *daemon) lastWords() string {
	const most = 500
	log := strings.TrimSpace(d.to().service.Log())
	return log[max(0, len(log)-most):]
}
