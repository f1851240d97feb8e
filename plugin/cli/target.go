package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"strata/backend/store"
	"strata/plugin"
	"strata/plugin/config"
	"strata/plugin/control"
	"strata/plugin/keeper"
)

// target is the store that a command works on.
type target struct {
	control.Store
	describe func(ctx context.Context) (control.Info, error)
	usages   func(ctx context.Context, f func(control.LayerUsage) error) error
	close    func() error
}

// socketPatterns are where sockets of running plugins can be: of managed plugins, then of a daemon
// outside a container.
func socketPatterns() []string {
	return []string{pluginSocketDir + "/*/strata.sock", pluginSocketDir + "/strata.sock"}
}

// pluginSocketDir is where Docker has the sockets of plugins.
const pluginSocketDir = "/run/docker/plugins"

// with opens the target, runs f on it and closes it. To write is more than to look at the records of
// a store at rest: it wants the store's lock, and recovers it. Reading the content of layers needs that
// too, since layers may have to be mounted.
func (s *session) with(ctx context.Context, write bool, f func(*target) error) error {
	t, err := s.open(ctx, write)
	if err != nil {
		return err
	}
	return errors.Join(f(t), t.close())
}

func (s *session) open(ctx context.Context, write bool) (*target, error) {
	if s.rest == "" {
		c, err := s.dial(ctx)
		if err != nil {
			return nil, err
		}
		return &target{Store: c, describe: c.Describe, usages: c.EachUsage, close: c.Close}, nil
	}
	if s.socket != "" {
		return nil, usageError{errors.New("--socket and --root exclude each other")}
	}
	root, err := filepath.Abs(s.rest)
	if err != nil {
		return nil, err
	}
	flags, err := config.FromFlags(s.pairs)
	if err != nil {
		return nil, err
	}
	st, err := s.atRest(root, flags).Open(ctx, write)
	if err != nil {
		return nil, err
	}
	if by := store.HeldBy(root); by != "" && !write {
		_, _ = fmt.Fprintf(s.Stderr, "strata: %s has this store open: what it has mounted and the settings that it runs with are not shown; "+
			"leave out --root to ask it\n", harmless(by)) // as complaints
	}
	return &target{
		Store: st,
		describe: func(ctx context.Context) (control.Info, error) {
			i, err := st.Info(ctx)
			return control.Info{StoreInfo: i, Place: control.Place{HostRoot: root, Warnings: plugin.Damaged(st.Damaged())}, Version: s.Version}, err
		},
		usages: func(ctx context.Context, f func(control.LayerUsage) error) error {
			return control.EachUsage(ctx, st, f)
		},
		close: func() error { return st.Close(context.WithoutCancel(ctx)) },
	}, nil
}

// atRest is the store at rest in root.
func (s *session) atRest(root string, flags config.Source) keeper.Rest {
	return keeper.Rest{Root: root, Backends: s.Backends, Environ: s.Environ, Flags: flags}
}

// dial finds the plugin that answers.
func (s *session) dial(ctx context.Context) (*control.Client, error) {
	sockets := []string{s.socket}
	if s.socket == "" {
		var err error
		if sockets, err = pluginSockets(); err != nil {
			return nil, err
		}
	}
	var errs []error
	for _, socket := range sockets {
		c := control.Dial(socket)
		if err := answers(ctx, c); err != nil {
			errs = append(errs, fmt.Errorf("socket %s: %w", socket, err), c.Close())
			continue
		}
		return c, nil
	}
	if len(sockets) == 0 {
		return nil, fmt.Errorf("there is no plugin at %s; is it enabled? --socket names another; a store at rest is reached with --root DIR, such as /var/lib/strata: %w",
			strings.Join(socketPatterns(), " or "), errdefs.ErrUnavailable)
	}
	return nil, errors.Join(errs...)
}

// pluginSockets lists the sockets of plugins, or of what looks like one.
func pluginSockets() (sockets []string, err error) {
	for _, pattern := range socketPatterns() {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		sockets = append(sockets, found...)
	}
	if len(sockets) > 0 {
		return sockets, nil
	}
	// Glob finds nothing in a directory that it may not read.
	if _, err := os.ReadDir(pluginSocketDir); errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("look for the plugin's socket: %w; only root may: %w", err, errdefs.ErrPermissionDenied)
	}
	return nil, nil
}

func answers(ctx context.Context, c *control.Client) error {
	const patience = 3 * time.Second // a plugin answers this within 100 ms, whatever else it does
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := c.Version(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
	}
	return err
}

// find returns the layer whose name or ID is, or alone begins with, the given text. A name goes before an ID, and what is
// whole before a beginning. Commands that change a layer must not guess so.
func (t *target) find(ctx context.Context, name string) (store.Info, error) {
	list, err := t.List(ctx)
	if err != nil {
		return store.Info{}, err
	}
	for _, is := range []func(l store.Info) bool{
		func(l store.Info) bool { return l.Name == name }, func(l store.Info) bool { return l.ID == name },
	} {
		if i := slices.IndexFunc(list, is); i >= 0 && name != "" {
			return list[i], nil
		}
	}
	var found []store.Info
	for _, l := range list {
		if name != "" && (strings.HasPrefix(l.Name, name) || strings.HasPrefix(l.ID, name)) {
			found = append(found, l)
		}
	}
	switch len(found) {
	case 0:
		return store.Info{}, fmt.Errorf("layer %q: %w", name, errdefs.ErrNotFound)
	case 1:
		return found[0], nil
	case 2:
		if found[0].Name+"-init" == found[1].Name { // a container; who means its init layer says so
			return found[0], nil
		}
	}
	return store.Info{}, fmt.Errorf("layer %q could be any of %d: %w", name, len(found), errdefs.ErrInvalidArgument)
}

// pair resolves NAME [PARENT]: without PARENT it is the layer's own, and "" is the empty tree.
func (t *target) pair(ctx context.Context, args []string) (name, parent string, err error) {
	l, err := t.find(ctx, args[0])
	if err != nil || len(args) == 1 {
		return l.Name, l.Parent, err
	}
	if args[1] == "" {
		return l.Name, "", nil
	}
	p, err := t.find(ctx, args[1])
	return l.Name, p.Name, err
}
