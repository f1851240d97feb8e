// Package daemon is what `strata serve` runs. It finds out where the store lies and what the settings
// are, listens, and connects the store's keeper with three front ends: Docker's GraphDriver protocol and
// the control API on one socket, containerd's snapshots on another.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sync/errgroup"

	"strata/backend"
	"strata/backend/store"
	"strata/plugin"
	"strata/plugin/config"
	"strata/plugin/control"
	"strata/plugin/graphdriver"
	"strata/plugin/keeper"
	"strata/plugin/snapshotter"
)

// Config says what to serve, and where.
type Config struct {
	Socket   string           // of the GraphDriver protocol and the control API, "" for none
	Backends []backend.Driver // the first is the default
	Environ  []string         // as of os.Environ
	Flags    config.Source    // settings of the command line
	Version  control.Version
	Log      io.Writer // where the process logs what is no error
	Errors   io.Writer // where it logs errors
}

// closePatience is how long the store may take to close. Docker kills a plugin ten seconds after
// SIGTERM; plugin.Server needs up to nine of them, and everything that matters is durable already: a deletion that
// does not stop in that time is taken up again by the next process.
const closePatience = time.Second

// Run serves until ctx ends, and returns nil if everything ended well. Settings that are wrong are
// an error at once, before anything listens; a managed plugin listens all the same, and answers every request with that error:
// of a plugin that does not listen Docker can only say that there is no such file.
func Run(ctx context.Context, c Config) error {
	d, err := newDaemon(c)
	if err != nil {
		return err
	}
	defer outliveLog()()
	defer splitLog(c.Log, c.Errors, d.place.hostText)()
	if err := apply(d.settings); err != nil {
		return err
	}
	servers, err := d.listen(ctx)
	if err != nil {
		return err
	}
	if err := plugin.Ready(); err != nil {
		log.G(ctx).WithError(err).Warn("cannot tell systemd that Strata serves")
	}
	entry := log.G(ctx).WithField("socket", c.Socket).WithField("snapshotter", d.settings.Snapshotter).
		WithField("root", d.place.HostRoot).WithField("version", c.Version.Version)
	if reason := d.keeper.Refused(); reason != nil {
		entry.WithError(reason).Error("serving nothing but this error")
	} else {
		entry.Info("serving")
		servers = append(servers, d.watch)
	}
	// One that fails ends the others.
	group, ctx := errgroup.WithContext(ctx)
	for _, serve := range servers {
		group.Go(func() error { return serve(ctx) })
	}
	group.Go(func() error {
		<-ctx.Done()
		return plugin.Stopping()
	})
	return errors.Join(group.Wait(), d.close(ctx))
}

// listen makes the sockets that are asked for, and returns what serves them.
func (d *daemon) listen(ctx context.Context) (servers []func(context.Context) error, err error) {
	if d.Socket == "" && d.settings.Snapshotter == "" {
		return nil, fmt.Errorf("nothing to serve: say --graphdriver-socket, --snapshotter-socket or both: %w", errdefs.ErrInvalidArgument)
	}
	sockets, err := plugin.NewSockets()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, sockets.Close()) }()
	if d.settings.Snapshotter != "" {
		serve, err := d.listenForContainerd(ctx, sockets)
		if err == nil {
			servers = append(servers, serve)
		} else if err := d.refuse(err); err != nil {
			return nil, err
		}
	}
	if d.Socket != "" {
		handler := d.handler()
		l, err := sockets.Listen(ctx, d.Socket)
		if err != nil {
			return nil, err
		}
		servers = append(servers, func(ctx context.Context) error {
			server := plugin.Server{Knocked: func() { d.knock.Do(func() { close(d.knocked) }) }}
			return server.Serve(ctx, l, handler)
		})
	}
	return servers, nil
}

// refuse makes err the answer to every request in a managed plugin, if there is none yet, and returns it otherwise.
func (d *daemon) refuse(err error) error {
	if !d.facts.managed() {
		return err
	}
	d.keeper.Refuse(err)
	return nil
}

// listenForContainerd makes the snapshotter's socket and connects it with the store.
func (d *daemon) listenForContainerd(ctx context.Context, sockets *plugin.Sockets) (func(context.Context) error, error) {
	// The store is opened when somebody asks, but a kubelet measures the file system that it lies on from the beginning.
	if d.keeper.Refused() == nil {
		if err := os.Mkdir(d.place.Root, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make the store's directory: %w", err)
		}
	}
	socket, err := d.place.socket(d.settings.Snapshotter)
	if err != nil {
		return nil, err
	}
	containerd, err := d.place.socket(d.settings.Containerd)
	if err != nil {
		return nil, err
	}
	blobs, err := snapshotter.DialContainerd(containerd, d.place.here) //nolint:contextcheck // what it asks once is for all requests
	if err != nil {
		return nil, err
	}
	sn := snapshotter.New(snapshotter.Options{
		HostPath: d.place.hostPath,
		HostText: d.place.hostText,
		Store:    func(ctx context.Context) (snapshotter.Layers, error) { return d.keeper.Store(ctx) },
	})
	l, err := sockets.Listen(ctx, socket)
	if err != nil {
		return nil, errors.Join(err, blobs.Close())
	}
	server := snapshotter.NewServer(sn, snapshotter.NewDiffer(sn, blobs), d.metrics)
	return func(ctx context.Context) error { return errors.Join(server.Serve(ctx, l), blobs.Close()) }, nil
}

// daemon is a serving process.
type daemon struct {
	Config
	table    *config.Table
	sources  []config.Source // the environment and the command line
	settings *config.Settings
	facts    facts
	place    Placement
	keeper   *keeper.Keeper[*store.Store]
	metrics  *control.Metrics
	ending   chan struct{} // closed when the propagated mount has been taken away
	taken    sync.Once
	knocked  chan struct{} // closed when dockerd has seen that the plugin listens
	knock    sync.Once
}

func newDaemon(c Config) (*daemon, error) {
	d := &daemon{
		Config: c, table: config.NewTable(c.Backends...), facts: factsOf(c.Environ), ending: make(chan struct{}), knocked: make(chan struct{}),
	}
	reason := d.configure()
	if reason != nil {
		if errors.Is(reason, errTaken) || !d.facts.managed() {
			return nil, reason
		}
		if err := d.configureRefusal(); err != nil {
			return nil, err
		}
	}
	d.keeper = keeper.New(keeper.Options{
		Table: d.table, Sources: d.sources, Settings: d.settings, Place: d.place.ofStore(), Apply: apply,
		Restart: d.facts.restart(), Version: c.Version.Version,
	})
	if reason != nil {
		d.keeper.Refuse(reason)
	}
	d.metrics = control.NewMetrics(c.Version, d.opened)
	return d, nil
}

// apply puts in force what settings say of the process.
func apply(s *config.Settings) error {
	if err := log.SetLevel(s.LogLevel); err != nil {
		return fmt.Errorf("set log level: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// configure finds out the settings and the store's place.
func (d *daemon) configure() (err error) {
	env, err := d.table.FromEnv(d.Environ)
	if err != nil {
		return err
	}
	d.sources = []config.Source{env, d.Flags}
	if d.settings, err = d.table.Resolve(d.sources...); err != nil {
		return err
	}
	chosen := false
	for _, s := range d.settings.List() {
		chosen = chosen || s.Key == "root" && s.Source != config.SourceDefault
	}
	if d.place, err = locate(d.settings.Root, chosen, d.facts); err != nil {
		return err
	}
	return d.place.begin(store.Seen)
}

// configureRefusal makes settings for a managed plugin that can only say why it cannot work. containerd is told so, too, if it was to
// find a snapshotter.
func (d *daemon) configureRefusal() (err error) {
	d.place = Placement{data: d.facts.data, runDir: d.facts.run}
	if d.settings, err = d.table.Resolve(); err != nil {
		return err
	}
	for _, e := range d.Environ {
		path, ok := strings.CutPrefix(e, config.EnvSnapshotter+"=")
		if !ok {
			continue
		}
		if _, err := d.place.socket(path); err == nil {
			d.settings.Snapshotter = path
		}
	}
	return nil
}

// handler joins the GraphDriver protocol and the control API.
func (d *daemon) handler() http.Handler {
	docker := graphdriver.New(d.keeper, graphdriver.Options{
		HostPath: d.place.dockerPath(d.facts.propagated), HostText: d.place.hostText,
		Warnings: d.keeper.Warnings, Unseen: d.unseen, Observer: d.metrics,
	})
	api := control.New(control.Options{
		Store: d.controlled, Settings: d.keeper, Metrics: d.metrics, Version: d.Version,
		Place: func(ctx context.Context) control.Place {
			return control.Place{HostRoot: d.place.HostRoot, Warnings: d.keeper.Warnings(ctx)}
		},
		HostText: d.place.hostText,
	})
	mux := http.NewServeMux()
	mux.Handle("/strata/", api)
	mux.Handle("/metrics", api)
	mux.Handle("/", docker)
	return mux
}

// controlled returns the store for the control API, opening it as an earlier process had it if need
// be. ErrUnavailable if there was none. The store is not opened before somebody asks: when dockerd
// starts, its Init follows the start of the plugin, and may have other options than the last.
func (d *daemon) controlled(ctx context.Context) (control.Store, error) {
	st, err := d.keeper.Store(ctx)
	if errors.Is(err, keeper.ErrNoInit) {
		err = fmt.Errorf("%v: %w", err, errdefs.ErrUnavailable) //nolint:errorlint // one class, not two
	}
	return st, err
}

// opened returns the store if it is open; ErrUnavailable otherwise.
func (d *daemon) opened(context.Context) (control.Store, error) {
	s := d.keeper.Current()
	if s == nil {
		return nil, fmt.Errorf("no store is open: %w", errdefs.ErrUnavailable)
	}
	return s.Store, nil
}

func (d *daemon) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closePatience)
	defer cancel()
	err := d.keeper.Close(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		log.G(ctx).WithError(err).Warn("ending beside a deletion, which goes on at the next start")
		return nil
	}
	return err
}
