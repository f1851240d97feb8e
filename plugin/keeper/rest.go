package keeper

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"strata/backend"
	"strata/backend/store"
	"strata/plugin/config"
)

// Rest is a store that no process has open.
type Rest struct {
	Root     string           // the store's directory
	Backends []backend.Driver // the first is the default
	Environ  []string         // as of os.Environ
	Flags    config.Source    // settings of the command line
}

// Open opens the store with its Settings. Without write nothing is changed, not even recovered, and
// a process may have the store open. ErrNotFound if there is no store; else the errors of
// store.Open.
func (r Rest) Open(ctx context.Context, write bool) (*store.Store, error) {
	s, err := r.Settings()
	if err != nil {
		return nil, err
	}
	c, err := storeConfig(s, atRest(r.Root))
	if err != nil {
		return nil, err
	}
	c.ExactDiffsSet = false // whatever the store was made with is right
	c.ReadOnly = !write
	return store.Open(ctx, c)
}

// Settings returns the store's settings: those of the environment, of the command line, of its
// config file and of dockerd's last Init. ErrNotFound if there is no store.
func (r Rest) Settings() (*config.Settings, error) {
	made, file, opts, err := r.read()
	if err != nil {
		return nil, err
	}
	table := config.NewTable(r.Backends...)
	env, err := table.FromEnv(r.Environ)
	if err != nil {
		return nil, err
	}
	return table.Resolve(env, made, r.Flags, file, opts)
}

// read returns what the store itself says: what it was made with, its config file, and the
// --storage-opts of dockerd's last Init. Without the last it may lack the additional stores that
// its layers stand on.
func (r Rest) read() (made, file, opts config.Source, err error) {
	meta, err := store.Inspect(r.Root)
	if err != nil {
		return made, file, opts, err
	}
	made = config.Source{Name: config.SourceStore, Assignments: []config.Assignment{
		{Key: "backend", Value: meta.Backend, Origin: r.Root}, {Key: "root", Value: r.Root, Origin: r.Root},
	}}
	if file, err = config.FromFile(r.configFile()); err != nil {
		return made, file, opts, err
	}
	init, err := loadInit(filepath.Join(r.Root, InitFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return made, file, opts, err
	}
	opts, err = config.FromStorageOpts(init.Opts)
	return made, file, opts, err
}

func (r Rest) configFile() string { return filepath.Join(r.Root, config.FileName) }

// SetOptions records settings in the store's config file, all or, on an error, none. ErrNotFound if
// there is no store, ErrUnavailable if a process has it open, ErrInvalidArgument for settings that
// would keep it from opening.
func (r Rest) SetOptions(values map[string]string) (changes []config.Outcome, err error) {
	if _, err := store.Inspect(r.Root); err != nil {
		return nil, err
	}
	unlock, err := store.Lock(r.Root)
	if err != nil {
		return nil, fmt.Errorf("set options of the store at rest %s: %w", r.Root, err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	made, _, opts, err := r.read()
	if err != nil {
		return nil, err
	}
	table := config.NewTable(r.Backends...)
	file, changes, err := amend(table, r.configFile(), values)
	if err != nil {
		return nil, err
	}
	later, err := table.Resolve(made, file, opts)
	if err != nil {
		return nil, err
	}
	if err := checkStores(changes, later, atRest(r.Root)); err != nil {
		return nil, err
	}
	for i := range changes {
		changes[i].Live = false
		outranked(later, &changes[i], config.Source{})
	}
	return changes, config.WriteFile(r.configFile(), file.Assignments)
}
