package keeper

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

	"strata/backend/store"
	"strata/plugin/config"
)

// sourceNow is the source of a live setting that holds until the process ends, because the config
// file, where it is recorded, is outdone by --storage-opt.
const sourceNow = "this process"

// resolve computes the settings for an Init, reading the config file anew. It wants k.mu.
func (k *Keeper[S]) resolve(i Init) (opts config.Source, s *config.Settings, err error) {
	opts, err = config.FromStorageOpts(i.Opts)
	if err != nil {
		return opts, nil, err
	}
	file, err := config.FromFile(k.configFile())
	if err != nil {
		return opts, nil, err
	}
	s, err = k.from(file, opts, k.now)
	return opts, s, err
}

// from computes the settings that the process's own sources and others make, the last outranking
// all.
func (k *Keeper[S]) from(others ...config.Source) (*config.Settings, error) {
	return k.o.Table.Resolve(append(slices.Clone(k.o.Sources), others...)...)
}

func (k *Keeper[S]) configFile() string { return filepath.Join(k.o.Place.Root, config.FileName) }

// Options implements control.Settings. As long as no store is open, they are those that the next call
// opens it with.
func (k *Keeper[S]) Options(context.Context) ([]config.Setting, error) {
	if err := k.Refused(); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.current.Load() == nil {
		return k.recorded()
	}
	file, err := config.FromFile(k.configFile())
	if err != nil {
		return nil, err
	}
	later, err := k.from(file, k.opts)
	if err != nil {
		return nil, fmt.Errorf("the next start would fail: %w", err)
	}
	return k.settings.Before(later), nil
}

// recorded returns the settings that the config file and the last Init make. It wants k.mu.
func (k *Keeper[S]) recorded() ([]config.Setting, error) {
	i, err := loadInit(k.initFile())
	if err := ignoreMissing(err); err != nil {
		return nil, err
	}
	_, s, err := k.resolve(i)
	if err != nil {
		return nil, fmt.Errorf("the store would not open: %w", err)
	}
	return s.List(), nil
}

// SetOptions implements control.Settings. Everything is recorded in the config file; what can be
// changed at once is.
func (k *Keeper[S]) SetOptions(_ context.Context, values map[string]string) ([]config.Outcome, error) {
	if err := k.Refused(); err != nil {
		return nil, err
	}
	if err := k.checkStores(values); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	file, changes, later, err := k.amended(values)
	if err != nil {
		return nil, err
	}
	now := k.now
	for i := range changes {
		if !changes[i].Live {
			changes[i].Restart = k.o.Restart
		}
		now = outranked(later, &changes[i], now)
	}
	next, err := k.from(file, k.opts, now)
	if err != nil {
		return nil, err
	}
	if err := config.WriteFile(k.configFile(), file.Assignments); err != nil {
		return nil, err
	}
	k.now = now
	return changes, k.apply(k.current.Load().Store, next)
}

// amended returns the config file with values, what comes of each, and the settings of the next
// start. It wants k.mu.
func (k *Keeper[S]) amended(values map[string]string) (config.Source, []config.Outcome, *config.Settings, error) {
	if k.current.Load() == nil {
		return config.Source{}, nil, nil, fmt.Errorf("set options: no store is open yet; strata options --root %s KEY=VALUE changes those of a store at rest: %w",
			k.o.Place.HostRoot, errdefs.ErrUnavailable)
	}
	file, changes, err := amend(k.o.Table, k.configFile(), values)
	if err != nil {
		return file, nil, nil, err
	}
	later, err := k.from(file, k.opts)
	return file, changes, later, err
}

// checkStores refuses additional stores that would keep the next start from opening the store. It
// holds no lock while it looks at them: their file systems may hang.
func (k *Keeper[S]) checkStores(values map[string]string) error {
	k.mu.Lock()
	_, changes, later, err := k.amended(values)
	k.mu.Unlock()
	if err != nil {
		return err
	}
	return checkStores(changes, later, k.o.Place)
}

// checkStores looks at the additional stores of the next start, if a change names some.
func checkStores(changes []config.Outcome, later *config.Settings, p Place) error {
	if !slices.ContainsFunc(changes, func(c config.Outcome) bool { return c.Key == "stores" && c.Unset == "" }) {
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

// outranked notes where the next start has the settings from that were unset, and which source
// outranks the config file. A live change is made all the same, by an assignment in now.
func outranked(later *config.Settings, c *config.Outcome, now config.Source) config.Source {
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
// settings change at once, others when the process is started again, which docker info says until
// then, and what a store has for ever cannot change. dockerd would not start if Init failed. It
// wants the lock.
func (k *Keeper[S]) reconfigure(ctx context.Context, st S, next Init) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	opts, s, err := k.resolve(next)
	if err != nil {
		return err
	}
	if fixed := changed(k.settings, s, config.Fixed); len(fixed) > 0 {
		return fmt.Errorf("the store has %s for ever: %w", strings.Join(fixed, ", "), errdefs.ErrFailedPrecondition)
	}
	k.opts = opts
	if k.late = changed(k.settings, s, config.Restart); len(k.late) > 0 {
		log.G(ctx).WithField("options", k.late).Warn("options take effect when this process is started again")
	}
	return k.apply(st, s)
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
// It wants k.mu.
func (k *Keeper[S]) apply(st S, next *config.Settings) error {
	inForce := k.settings.WithLive(next)
	if err := st.SetSync(inForce.Sync); err != nil {
		return err
	}
	if err := k.o.Apply(inForce); err != nil {
		return err
	}
	k.settings = inForce
	return nil
}

// amend adds values to the assignments of a config file, removes those of keys whose value is "",
// and says what comes of each.
func amend(table *config.Table, path string, values map[string]string) (config.Source, []config.Outcome, error) {
	file, err := config.FromFile(path)
	if err != nil {
		return file, nil, err
	}
	var changes []config.Outcome
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(values)) {
		o, err := table.Lookup(key)
		if kept := table.Unset(file.Assignments, key); err != nil && values[key] == "" && len(kept) < len(file.Assignments) {
			file.Assignments = kept // what nobody knows stands in the way of the next start
			changes = append(changes, config.Outcome{Key: key, Unset: config.SourceDefault})
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
		c := config.Outcome{Key: o.Key, Value: values[key], Live: o.Change == config.Live}
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
