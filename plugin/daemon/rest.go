package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/containerd/errdefs"

	"strata/backend"
	"strata/backend/regular"
	"strata/backend/store"
	"strata/plugin"
	"strata/plugin/config"
)

// storeConfig translates settings into what the store wants to know.
func storeConfig(s *config.Settings, p Placement) (store.Config, error) {
	c := store.Config{Root: p.Root, MountDir: p.MountDir, Backend: s.Backend, Sync: s.Sync, Unseen: p.unseen, New: s.OpenBackend}
	c.ExactDiffs, c.ExactDiffsSet = s.ExactDiffsWanted()
	for _, dir := range s.Stores {
		here, err := p.here(dir)
		if err != nil {
			return c, fmt.Errorf("option stores: %w", err)
		}
		c.Stores = append(c.Stores, here)
	}
	return c, nil
}

// OpenAtRest opens a store that no plugin has open, with SettingsAtRest. Without write nothing is
// changed, not even recovered. ErrNotFound if there is no store.
func OpenAtRest(ctx context.Context, backends []backend.Driver, environ []string, flags config.Source, root string, write bool) (*store.Store, error) {
	s, err := SettingsAtRest(config.NewTable(backends...), environ, flags, root)
	if err != nil {
		return nil, err
	}
	c, err := storeConfig(s, Placement{Root: root, HostRoot: root})
	if err != nil {
		return nil, err
	}
	c.ExactDiffsSet = false // whatever the store was made with is right
	c.ReadOnly = !write
	return store.Open(ctx, c)
}

// SettingsAtRest returns the settings of a store that no plugin has open: those of the environment,
// of the command line, of its config file and of dockerd's last Init. ErrNotFound if there is no store.
func SettingsAtRest(table *config.Table, environ []string, flags config.Source, root string) (*config.Settings, error) {
	meta, err := store.Inspect(root)
	if err != nil {
		return nil, err
	}
	env, err := table.FromEnv(environ)
	if err != nil {
		return nil, err
	}
	file, err := config.FromFile(filepath.Join(root, config.FileName))
	if err != nil {
		return nil, err
	}
	opts, err := savedStorageOpts(root)
	if err != nil {
		return nil, err
	}
	return table.Resolve(env, recorded(root, meta), flags, file, opts)
}

// recorded makes a source of what a store remembers.
func recorded(root string, meta store.Meta) config.Source {
	return config.Source{Name: config.SourceStore, Assignments: []config.Assignment{
		{Key: "backend", Value: meta.Backend, Origin: root}, {Key: "root", Value: root, Origin: root},
	}}
}

// savedStorageOpts reads the --storage-opts of dockerd's last Init, as package graphdriver saves them:
// without those a store may lack the additional stores that its layers stand on.
func savedStorageOpts(root string) (config.Source, error) {
	path := filepath.Join(root, initFile)
	text, err := regular.Read(path, plugin.MaxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return config.Source{Name: config.SourceStorageOpt}, nil
	}
	if err != nil {
		return config.Source{}, fmt.Errorf("read store %s: %w", root, err)
	}
	var saved struct{ Init struct{ Opts []string } }
	if err := json.Unmarshal(text, &saved); err != nil {
		return config.Source{}, fmt.Errorf("read %s: %w: %w", path, err, errdefs.ErrDataLoss)
	}
	return config.FromStorageOpts(saved.Init.Opts)
}
