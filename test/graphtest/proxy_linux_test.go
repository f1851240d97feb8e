package graphtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"

	storage "github.com/containers/storage/drivers"
	moby "github.com/docker/docker/daemon/graphdriver"
	"github.com/docker/docker/pkg/idtools"
	"github.com/docker/docker/pkg/plugingetter"
	"github.com/docker/docker/pkg/plugins"

	"strata/backend"
	"strata/backend/backendtest"
	"strata/backend/store"
	"strata/plugin"
	"strata/plugin/config"
	"strata/plugin/graphdriver"
	"strata/plugin/keeper"
)

// propagated is the propagated mount of the pretended plugin.
const propagated = "/propagated"

// rig is where one kind of store is served from.
type rig struct {
	name  string // of the driver, as registered
	dir   string // on the file system under test
	run   string // for sockets and the pretended plugin
	open  func(ctx context.Context, env backend.Env) (backend.Backend, error)
	exact bool
	life  int // how often it was started
}

// register makes the rig known to moby and to containers/storage under its name.
func (r *rig) register(tb testing.TB) {
	tb.Helper()
	err := moby.Register(r.name, func(_ string, opts []string, ids idtools.IdentityMapping) (moby.Driver, error) {
		return r.start(tb, opts, ids)
	})
	if err != nil {
		tb.Fatal(err)
	}
	err = storage.Register(r.name, func(string, storage.Options) (storage.Driver, error) {
		d, err := r.start(tb, nil, idtools.IdentityMapping{})
		return &storageDriver{driver: d}, err
	})
	if err != nil {
		tb.Fatal(err)
	}
}

// start serves the store, as a fresh process would, and connects dockerd's proxy to it.
func (r *rig) start(tb testing.TB, opts []string, ids idtools.IdentityMapping) (*driver, error) {
	tb.Helper()
	root := filepath.Join(r.dir, "store")
	d := &driver{t: tb, root: root, done: make(chan error, 1), parents: map[string]string{}, seen: map[string]bool{}}
	var err error
	if d.keeper, err = r.keep(root); err != nil {
		return nil, err
	}
	handler := graphdriver.New(d.keeper, graphdriver.Options{HostPath: graphdriver.Climb(propagated, root, root)})
	r.life++
	socket := filepath.Join(r.run, fmt.Sprintf("%d.sock", r.life))
	ctx, stop := context.WithCancel(context.Background())
	d.stop = stop
	l, err := plugin.Listen(ctx, socket)
	if err != nil {
		stop()
		return nil, err
	}
	go func() { d.done <- new(plugin.Server).Serve(ctx, l, handler) }()
	client, err := plugins.NewClient("unix://"+socket, nil)
	if err != nil {
		return nil, errors.Join(err, d.end())
	}
	managed := &managedPlugin{name: r.name, dir: filepath.Join(r.run, "plugins", r.name), client: client}
	d.Driver, err = moby.GetDriver("plugin-"+r.name, managed, moby.Options{
		Root: r.run, DriverOptions: opts, IDMap: ids, ExperimentalEnabled: true,
	})
	if err != nil {
		return nil, errors.Join(err, d.end())
	}
	return d, nil
}

// keep makes the owner of the store in root.
func (r *rig) keep(root string) (*keeper.Keeper[*store.Store], error) {
	table := config.NewTable(backend.Driver{
		Name: r.name, Config: func() any { return &struct{}{} },
		Open: func(ctx context.Context, env backend.Env, _ any) (backend.Backend, error) { return r.open(ctx, env) },
	})
	flags, err := config.FromFlags([]string{"root=" + root, fmt.Sprint("exact-diffs=", r.exact)})
	if err != nil {
		return nil, err
	}
	settings, err := table.Resolve(flags)
	return keeper.New(keeper.Options{
		Table: table, Sources: []config.Source{flags}, Settings: settings, Place: keeper.Place{Root: root, HostRoot: root},
	}), err
}

// managedPlugin is what dockerd knows about an installed plugin, and a getter that finds no other.
type managedPlugin struct {
	name, dir string
	client    *plugins.Client
}

func (m *managedPlugin) Get(string, string, int) (plugingetter.CompatPlugin, error) { return m, nil }

func (m *managedPlugin) GetAllByCap(string) ([]plugingetter.CompatPlugin, error) { return nil, nil }

func (m *managedPlugin) GetAllManagedPluginsByCap(string) []plugingetter.CompatPlugin {
	return nil
}
func (m *managedPlugin) Handle(string, func(string, *plugins.Client)) {}
func (m *managedPlugin) Name() string                                 { return m.name }
func (m *managedPlugin) IsV1() bool                                   { return false }
func (m *managedPlugin) Client() *plugins.Client                      { return m.client }

// ScopedPath does what moby's plugin/v2 does for a plugin with a propagated mount.
func (m *managedPlugin) ScopedPath(path string) string {
	if strings.HasPrefix(path, propagated) {
		return filepath.Join(m.dir, "propagated-mount", strings.TrimPrefix(path, propagated))
	}
	return filepath.Join(m.dir, "rootfs", path)
}

// driver is dockerd's proxy, which notes what the suite does with its layers.
type driver struct {
	moby.Driver
	t       testing.TB
	root    string
	keeper  *keeper.Keeper[*store.Store]
	stop    context.CancelFunc
	done    chan error
	parents map[string]string // of the layers that were created
	seen    map[string]bool   // layers that were mounted
}

func (d *driver) Create(name, parent string, o *moby.CreateOpts) error {
	d.parents[name] = parent
	return d.Driver.Create(name, parent, o)
}

func (d *driver) Get(name, label string) (string, error) {
	d.seen[name] = true
	return d.Driver.Get(name, label)
}

// ApplyDiff makes a layer anew that the suite has mounted, if only to look at it: Strata fills no
// layer that may have been written to, and dockerd never asks for that. That nothing was written is
// verified first.
func (d *driver) ApplyDiff(name, parent string, r io.Reader) (int64, error) {
	if d.seen[name] {
		changes, err := d.Changes(name, d.parents[name])
		if err != nil {
			return 0, err
		}
		if len(changes) > 0 {
			return 0, fmt.Errorf("the suite wrote to layer %s before ApplyDiff: %v", name, changes)
		}
		if err := errors.Join(d.Remove(name), d.Create(name, d.parents[name], nil)); err != nil {
			return 0, err
		}
	}
	return d.Driver.ApplyDiff(name, parent, r)
}

// Cleanup ends the life of the process: it looks the store over, removes what the suite left and
// stops the server. Anything that is then still mounted fails the test.
func (d *driver) Cleanup() error {
	d.t.Helper()
	err := errors.Join(d.Driver.Cleanup(), d.sweep(context.Background()), d.end())
	mounts, listErr := backendtest.MountsBelow(d.root)
	if len(mounts) > 0 {
		d.t.Errorf("still mounted: %s", strings.Join(mounts, ", "))
	}
	return errors.Join(err, listErr)
}

// sweep checks the store and removes all layers, children first.
func (d *driver) sweep(ctx context.Context) error {
	s, err := d.keeper.Store(ctx)
	if err != nil {
		return err
	}
	findings, err := s.Check(ctx, store.CheckOptions{Deep: true})
	if err != nil {
		return err
	}
	for _, f := range findings {
		d.t.Errorf("check: %s of layer %s: %s", f.Kind, f.Layer, f.Detail)
	}
	for {
		list, err := s.List(ctx)
		if err != nil || len(list) == 0 {
			return err
		}
		for _, l := range list {
			if l.Children > 0 {
				continue
			}
			if err := s.Remove(ctx, l.Name); err != nil {
				return err
			}
		}
	}
}

func (d *driver) end() error {
	d.stop()
	return errors.Join(<-d.done, d.keeper.Close(context.Background()))
}
