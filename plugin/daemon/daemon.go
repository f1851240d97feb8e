// Package daemon is what `strata serve` runs: it listens, finds out where the store lies and what
// the settings are, opens the store when dockerd says Init or containerd asks first, and serves Docker's GraphDriver
// protocol and the control API on one socket, and containerd's snapshots on another, until it is told to stop.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
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

// initFile keeps the arguments of dockerd's Init, in the store's directory.
const initFile = "init.json"

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
	if err := setLogLevel(d.settings.LogLevel); err != nil {
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
	if d.reason != nil {
		entry.WithError(d.reason).Error("serving nothing but this error")
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
		l, err := sockets.Listen(ctx, d.Socket)
		if err != nil {
			return nil, err
		}
		servers = append(servers, func(ctx context.Context) error {
			server := plugin.Server{Knocked: func() { d.knock.Do(func() { close(d.knocked) }) }}
			return server.Serve(ctx, l, d.handler())
		})
	}
	return servers, nil
}

// refuse makes err the answer to every request in a managed plugin, if there is none yet, and returns it otherwise.
func (d *daemon) refuse(err error) error {
	if !d.facts.managed() {
		return err
	}
	if d.reason == nil {
		d.reason = err
	}
	return nil
}

// listenForContainerd makes the snapshotter's socket and connects it with the store.
func (d *daemon) listenForContainerd(ctx context.Context, sockets *plugin.Sockets) (func(context.Context) error, error) {
	// The store is opened when somebody asks, but a kubelet measures the file system that it lies on from the beginning.
	if d.reason == nil {
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
		Store: func(ctx context.Context) (snapshotter.Layers, error) {
			st, err := d.docker.Store(ctx)
			if err != nil {
				return nil, err
			}
			return st, nil
		},
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
	table   *config.Table
	env     config.Source
	facts   facts
	place   Placement
	reason  error // why nothing can be served; nil if it can
	metrics *control.Metrics
	docker  *graphdriver.Handler
	ending  chan struct{} // closed when the propagated mount has been taken away
	taken   sync.Once
	knocked chan struct{} // closed when dockerd has seen that the plugin listens
	knock   sync.Once

	mu       sync.Mutex       // guards what follows; not held while a store opens
	store    *store.Store     // nil as long as none is open
	opts     config.Source    // --storage-opt, as of Init
	now      config.Source    // live changes that the config file cannot express
	settings *config.Settings // in force
	late     []string         // keys of --storage-opts that take effect when the plugin is restarted
}

func newDaemon(c Config) (*daemon, error) {
	d := &daemon{
		Config: c, table: config.NewTable(c.Backends...), facts: factsOf(c.Environ), ending: make(chan struct{}), knocked: make(chan struct{}),
		opts: config.Source{Name: config.SourceStorageOpt}, now: config.Source{Name: sourceNow},
	}
	err := d.configure()
	switch {
	case errors.Is(err, errTaken):
		return nil, err
	case err != nil:
		if err := d.refuse(err); err != nil {
			return nil, err
		}
		if err := d.configureRefusal(); err != nil {
			return nil, err
		}
	}
	d.metrics = control.NewMetrics(c.Version, d.opened)
	var dockerPath func(string) string
	if d.place.run != "" {
		dockerPath = d.place.dockerPath(d.facts.propagated)
	}
	d.docker = graphdriver.New(graphdriver.Options{
		HostPath:    dockerPath,
		HostText:    d.place.hostText,
		DataRoot:    d.place.dataRoot,
		InitFile:    filepath.Join(d.place.Root, initFile),
		Open:        d.open,
		Reconfigure: d.reconfigure,
		Warnings:    d.warnings,
		Refuse:      func() error { return d.reason },
		Unseen:      d.unseen,
		Observer:    d.metrics,
		Alone:       d.settings.Snapshotter != "",
		Version:     c.Version.Version,
	})
	return d, nil
}

// configure finds out the settings and the store's place.
func (d *daemon) configure() (err error) {
	if d.env, err = d.table.FromEnv(d.Environ); err != nil {
		return err
	}
	if d.settings, err = d.table.Resolve(d.env, d.Flags); err != nil {
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
	api := control.New(control.Options{
		Store: d.current, Settings: d, Metrics: d.metrics, Version: d.Version,
		Place: func(ctx context.Context) control.Place {
			return control.Place{HostRoot: d.place.HostRoot, Warnings: d.docker.Warnings(ctx)}
		},
		HostText: d.place.hostText,
	})
	mux := http.NewServeMux()
	mux.Handle("/strata/", api)
	mux.Handle("/metrics", api)
	mux.Handle("/", d.docker)
	return mux
}

// open opens the store for dockerd's Init. The handler never calls it twice at once.
func (d *daemon) open(ctx context.Context, init graphdriver.Init) (*store.Store, error) {
	opts, err := config.FromStorageOpts(init.Opts)
	if err != nil {
		return nil, err
	}
	s, err := d.resolve(opts)
	if err != nil {
		return nil, err
	}
	if err := setLogLevel(s.LogLevel); err != nil {
		return nil, err
	}
	c, err := storeConfig(s, d.place)
	if err != nil {
		return nil, err
	}
	st, err := store.Open(ctx, c)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.store, d.opts, d.settings = st, opts, s
	return st, nil
}

// warnings are what docker info and strata info show.
func (d *daemon) warnings() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []string
	if d.place.doubt != "" {
		all = append(all, d.place.doubt)
	}
	if len(d.late) > 0 {
		all = append(all, fmt.Sprintf("--storage-opt changed %s while the store was open; restart %s to put that in force", strings.Join(d.late, ", "), d.facts.process()))
	}
	return all
}

// current returns the store for the control API, opening it as an earlier process had it if need
// be. ErrUnavailable if there was none. The store is not opened before somebody asks: when dockerd
// starts, its Init follows the start of the plugin, and may have other options than the last.
func (d *daemon) current(ctx context.Context) (control.Store, error) {
	st, err := d.docker.Store(ctx)
	if errdefs.IsFailedPrecondition(err) {
		return nil, fmt.Errorf("%v: %w", err, errdefs.ErrUnavailable) //nolint:errorlint // one class, not two
	}
	if err != nil {
		return nil, err
	}
	return st, nil
}

// opened returns the store if it is open; ErrUnavailable otherwise.
func (d *daemon) opened(context.Context) (control.Store, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.store == nil {
		return nil, fmt.Errorf("no store is open: %w", errdefs.ErrUnavailable)
	}
	return d.store, nil
}

func (d *daemon) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closePatience)
	defer cancel()
	err := d.docker.Close(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		log.G(ctx).WithError(err).Warn("ending beside a deletion, which goes on at the next start")
		return nil
	}
	return err
}
