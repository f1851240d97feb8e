package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"strata/backend"
	"strata/backend/store"
	"strata/plugin/config"
	"strata/plugin/control"
	"strata/plugin/graphdriver"
)

// sourceNow is the source of a live setting that holds until the process ends, because the config
// file, where it is recorded, is outdone by --storage-opt.
const sourceNow = "this process"

// resolve computes the settings from all sources, reading the config file anew.
func (d *daemon) resolve(opts config.Source) (*config.Settings, error) {
	file, err := config.FromFile(d.configFile())
	if err != nil {
		return nil, err
	}
	return d.table.Resolve(d.env, d.Flags, file, opts, d.now)
}

func (d *daemon) configFile() string { return filepath.Join(d.place.Root, config.FileName) }

func setLogLevel(level string) error {
	if err := log.SetLevel(level); err != nil {
		return fmt.Errorf("set log level: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Options implements control.Settings.
func (d *daemon) Options(context.Context) ([]config.Setting, error) {
	if d.reason != nil {
		return nil, d.reason
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	file, err := config.FromFile(d.configFile())
	if err != nil {
		return nil, err
	}
	later, err := d.table.Resolve(d.env, d.Flags, file, d.opts)
	if err != nil {
		return nil, fmt.Errorf("the next start would fail: %w", err)
	}
	return d.settings.Before(later), nil
}

// SetOptions implements control.Settings. Everything is recorded in the config file; what can be
// changed at once is.
func (d *daemon) SetOptions(_ context.Context, values map[string]string) ([]control.Change, error) {
	if d.reason != nil {
		return nil, d.reason
	}
	if err := d.checkStores(values); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	file, changes, later, err := d.amended(values)
	if err != nil {
		return nil, err
	}
	now := d.now
	for i := range changes {
		if !changes[i].Live {
			changes[i].Restart = d.facts.restart()
		}
		now = outranked(later, &changes[i], now)
	}
	next, err := d.table.Resolve(d.env, d.Flags, file, d.opts, now)
	if err != nil {
		return nil, err
	}
	if err := config.WriteFile(d.configFile(), file.Assignments); err != nil {
		return nil, err
	}
	d.now = now
	return changes, d.apply(next)
}

// amended returns the config file with values, what comes of each, and the settings of the next start. It wants d.mu.
func (d *daemon) amended(values map[string]string) (config.Source, []control.Change, *config.Settings, error) {
	if d.store == nil {
		return config.Source{}, nil, nil, fmt.Errorf("set options: no store is open yet; strata options --root %s KEY=VALUE changes those of a store at rest: %w",
			d.place.HostRoot, errdefs.ErrUnavailable)
	}
	file, changes, err := amend(d.table, d.configFile(), values)
	if err != nil {
		return file, nil, nil, err
	}
	later, err := d.table.Resolve(d.env, d.Flags, file, d.opts)
	return file, changes, later, err
}

// checkStores refuses additional stores that would keep the next start from opening the store. It holds no lock while it
// looks at them: their file systems may hang.
func (d *daemon) checkStores(values map[string]string) error {
	d.mu.Lock()
	_, changes, later, err := d.amended(values)
	d.mu.Unlock()
	if err != nil {
		return err
	}
	return checkStores(changes, later, d.place)
}

// checkStores looks at the additional stores of the next start, if a change names some.
func checkStores(changes []control.Change, later *config.Settings, p Placement) error {
	if !slices.ContainsFunc(changes, func(c control.Change) bool { return c.Key == "stores" && c.Unset == "" }) {
		return nil
	}
	c, err := storeConfig(later, p)
	if err != nil {
		return err
	}
	if err := store.CheckStores(c.Stores, c.Backend); err != nil {
		return fmt.Errorf("option stores: %w", err)
	}
	return nil
}

// outranked notes where the next start has the settings from that were unset, and which source outranks the config file. A
// live change is made all the same, by an assignment in now.
func outranked(later *config.Settings, c *control.Change, now config.Source) config.Source {
	kept := slices.DeleteFunc(slices.Clone(now.Assignments), func(a config.Assignment) bool { return a.Key == c.Key })
	for _, s := range later.List() {
		switch {
		case s.Key != c.Key:
		case c.Unset != "":
			c.Value, c.Unset = s.Value, s.Source
		case s.Source != config.SourceFile:
			c.Winner = fmt.Sprintf("%s has %s=%s", s.Source, s.Key, s.Value)
			if c.Live {
				kept = append(kept, config.Assignment{Key: c.Key, Value: c.Value, Origin: sourceNow})
			}
		}
	}
	return config.Source{Name: now.Name, Assignments: kept}
}

// reconfigure is what another Init with other --storage-opts does while the store is open: live
// settings change at once, others when the plugin is restarted, which docker info says until then,
// and what a store has for ever cannot change. dockerd would not start if Init failed.
func (d *daemon) reconfigure(ctx context.Context, _ *store.Store, _, next graphdriver.Init) error {
	opts, err := config.FromStorageOpts(next.Opts)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s, err := d.resolve(opts)
	if err != nil {
		return err
	}
	if fixed := changed(d.settings, s, config.Fixed); len(fixed) > 0 {
		return fmt.Errorf("the store has %s for ever: %w", strings.Join(fixed, ", "), errdefs.ErrFailedPrecondition)
	}
	d.opts = opts
	if d.late = changed(d.settings, s, config.Restart); len(d.late) > 0 {
		log.G(ctx).WithField("options", d.late).Warn("options take effect when this process is started again")
	}
	return d.apply(s)
}

// changed lists the keys of settings of one kind that differ.
func changed(old, next *config.Settings, kind config.Change) []string {
	was := map[string]string{}
	for _, s := range old.List() {
		was[s.Key] = s.Value
	}
	var keys []string
	for _, s := range next.List() {
		if s.Change == kind && was[s.Key] != s.Value {
			keys = append(keys, s.Key)
		}
	}
	return keys
}

// apply puts the live settings of next in force. The others stay as they are until the next start.
func (d *daemon) apply(next *config.Settings) error {
	inForce := d.settings.WithLive(next)
	if err := d.store.SetSync(inForce.Sync); err != nil {
		return err
	}
	if err := setLogLevel(inForce.LogLevel); err != nil {
		return err
	}
	d.settings = inForce
	return nil
}

// amend adds values to the assignments of a config file, removes those of keys whose value is "", and says what comes of each.
func amend(table *config.Table, path string, values map[string]string) (config.Source, []control.Change, error) {
	file, err := config.FromFile(path)
	if err != nil {
		return file, nil, err
	}
	var changes []control.Change
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(values)) {
		o, err := table.Lookup(key)
		if kept := table.Unset(file.Assignments, key); err != nil && values[key] == "" && len(kept) < len(file.Assignments) {
			file.Assignments = kept // what nobody knows stands in the way of the next start
			changes = append(changes, control.Change{Key: key, Unset: config.SourceDefault})
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if o.Change == config.Fixed || o.Change == config.Place {
			errs = append(errs, fmt.Errorf("option %s cannot be changed here (%s): %w", o.Key, o.Change.Advice(), errdefs.ErrInvalidArgument))
			continue
		}
		c := control.Change{Key: o.Key, Value: values[key], Live: o.Change == config.Live}
		if c.Value == "" {
			c.Unset = config.SourceDefault
			file.Assignments = table.Unset(file.Assignments, o.Key)
		} else {
			file.Assignments = table.Set(file.Assignments, config.Assignment{Key: o.Key, Value: c.Value, Origin: "the request"})
		}
		changes = append(changes, c)
	}
	return file, changes, errors.Join(errs...)
}

// SetAtRest records settings in the config file of a store that no process has open. ErrUnavailable if one has.
func SetAtRest(backends []backend.Driver, root string, values map[string]string) (changes []control.Change, err error) {
	table := config.NewTable(backends...)
	meta, err := store.Inspect(root)
	if err != nil {
		return nil, err
	}
	unlock, err := store.Lock(root)
	if err != nil {
		return nil, fmt.Errorf("set options of the store at rest %s: %w", root, err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	path := filepath.Join(root, config.FileName)
	file, changes, err := amend(table, path, values)
	if err != nil {
		return nil, err
	}
	opts, err := savedStorageOpts(root)
	if err != nil {
		return nil, err
	}
	later, err := table.Resolve(recorded(root, meta), file, opts)
	if err != nil {
		return nil, err
	}
	if err := checkStores(changes, later, Placement{Root: root, HostRoot: root}); err != nil {
		return nil, err
	}
	for i := range changes {
		changes[i].Live = false
		outranked(later, &changes[i], config.Source{})
	}
	return changes, config.WriteFile(path, file.Assignments)
}
