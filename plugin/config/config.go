// Package config decides what the settings of a Strata process are.
//
// Every setting is one field of a struct with tags: [Core] for what all backends share, and the
// Config struct of each backend. From those tags, and from nowhere else, come the parser, the list
// that `strata options` prints, the table in docs/options.md and the env entries of the plugin's config.json.
//
// A setting is looked for in these places; a later one wins:
//
//	defaults            NewConfig of each backend, and the default tags of Core
//	environment         STRATA_..., which `docker plugin set` changes
//	flags               of `strata serve`
//	config file         <root>/config.json, which `strata options KEY=VALUE` writes, and KEY= unsets
//	--storage-opt       of dockerd, handed over at Init
//
// Within one place a key may be given once; the same key twice with different values is an error,
// as is a key that nobody knows, a value that does not fit, and an option of a backend that is not
// the one in use. All errors are ErrInvalidArgument of github.com/containerd/errdefs and name the
// place that the value came from.
//
// # Tags
//
//	option:"name"       the key; a backend's gets the backend's name and a dot before it
//	help:"text"         one sentence
//	default:"value"     Core only; a backend's default is what its constructor sets
//	values:"a,b"        the only values allowed
//	env:"STRATA_X"      the environment variable, Core only
//	change:"live"       when a change takes effect: see [Change]; "restart" if there is none
package config

import (
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"strata/backend"
	"strata/backend/store"
)

// Order says what outranks what, for the help of the command.
const Order = `A setting comes from the environment (STRATA_..., docker plugin set), is outranked by a flag of strata serve, that by
the store's config file, and that by --storage-opt of dockerd.`

// Core are the settings that do not depend on the backend.
type Core struct {
	Backend     string         `option:"backend" env:"STRATA_BACKEND" change:"fixed" help:"Where layers are kept. A store with layers keeps its backend."`
	Root        string         `option:"root" env:"STRATA_ROOT" default:"/var/lib/strata" change:"place" help:"The store's directory, as the host sees it; of a plugin directly in its data.source."`
	Sync        store.SyncMode `option:"sync" env:"STRATA_SYNC" default:"layer" values:"layer,none" change:"live" help:"What a power cut can cost: layer loses nothing acknowledged, none may lose the last half minute."`
	ExactDiffs  string         `option:"exact-diffs" env:"STRATA_EXACT_DIFFS" default:"auto" values:"auto,true,false" change:"fixed" help:"Whether an applied layer is given back byte for byte, so that dockerd need not keep its own record. auto is true for a new store."`
	Stores      []string       `option:"stores" env:"STRATA_STORES" help:"Directories of further stores whose layers are used but never modified, separated by commas."`
	Snapshotter string         `option:"snapshotter-socket" env:"STRATA_SNAPSHOTTER_SOCKET" change:"place" help:"Where containerd finds the snapshotter, as the host sees it. Empty for nowhere."`
	Containerd  string         `option:"containerd-socket" env:"STRATA_CONTAINERD_SOCKET" default:"/run/containerd/containerd.sock" change:"place" help:"Where containerd listens, as the host sees it: the differ reads and writes blobs there."`
	LogLevel    string         `option:"log-level" env:"STRATA_LOG_LEVEL" default:"info" values:"trace,debug,info,warn,error" change:"live" help:"How much is logged."`
}

// Change says how a setting can be changed once there is a store.
type Change string

const (
	// Live settings change at once: strata options KEY=VALUE.
	Live Change = "live"
	// Restart settings are recorded by strata options KEY=VALUE and take effect when the process is started
	// again: a plugin with dockerd, a service by itself.
	Restart Change = "restart"
	// Fixed settings are decided when a store is made and never change.
	Fixed Change = "fixed"
	// Place is where to find the store, and thereby its config file: only the environment and
	// flags can say it.
	Place Change = "place"
)

// Advice tells a user how a setting of this kind is changed.
func (c Change) Advice() string {
	switch c {
	case Live:
		return "at once: strata options KEY=VALUE"
	case Restart:
		return "strata options KEY=VALUE, then restart dockerd, and with it the plugin, or the service (systemctl restart strata)"
	case Fixed:
		return "decided when the store is made, or opened while it holds no layers"
	case Place:
		return "of a plugin: docker plugin disable --force NAME; docker plugin set NAME VARIABLE=VALUE; docker plugin enable NAME. " +
			"Of a service: a flag, or Environment= of its unit; systemctl restart strata. Containers go on; for another root, stop them before and restart dockerd after"
	}
	return ""
}

// Checker is a Config of a backend that knows more about its values than their types say.
type Checker interface {
	// Check returns ErrInvalidArgument, and names the option, for values that the backend would refuse wherever the store lies.
	Check() error
}

// Option describes one setting.
type Option struct {
	Key     string   `json:"key"`
	Env     string   `json:"env,omitempty"` // "" if only STRATA_OPTIONS can carry it
	Default string   `json:"default"`
	Values  []string `json:"values,omitempty"` // nil if anything that parses will do
	Help    string   `json:"help"`
	Change  Change   `json:"change"`
	Backend string   `json:"backend,omitempty"` // "" for Core
}

// Table is the list of all settings. It is read-only and may be used concurrently.
type Table struct {
	backends []backend.Driver
	options  []Option // Core first, then the backends' in their order
}

// NewTable collects the settings of Core and of the backends, the first of which is the default.
// It panics on tags that cannot work, which is a mistake in the program.
func NewTable(backends ...backend.Driver) *Table {
	t := &Table{backends: backends}
	core := Core{}
	fill(&core)
	if len(backends) > 0 {
		core.Backend = backends[0].Name
	}
	t.options = describe("", &core)
	for _, b := range backends {
		t.options = append(t.options, describe(b.Name, b.Config())...)
	}
	for i := range t.options {
		if t.options[i].Key == "backend" {
			t.options[i].Values = t.backendNames()
		}
	}
	return t
}

// Options lists all settings, those of Core first.
func (t *Table) Options() []Option { return slices.Clone(t.options) }

// Lookup finds a setting by its key, with or without the prefix "strata.". ErrInvalidArgument,
// with the list of keys, if there is none.
func (t *Table) Lookup(key string) (Option, error) {
	key = strings.TrimPrefix(key, "strata.")
	for _, o := range t.options {
		if o.Key == key {
			return o, nil
		}
	}
	return Option{}, fmt.Errorf("option %q is unknown; the known ones are %s: %w", key, strings.Join(t.keys(), ", "), errdefs.ErrInvalidArgument)
}

func (t *Table) keys() []string {
	keys := make([]string, 0, len(t.options))
	for _, o := range t.options {
		keys = append(keys, o.Key)
	}
	return keys
}

func (t *Table) backendNames() []string {
	names := make([]string, 0, len(t.backends))
	for _, b := range t.backends {
		names = append(names, b.Name)
	}
	return names
}

// fill sets the fields of the struct that ptr points to from their default tags.
func fill(ptr any) {
	v := reflect.ValueOf(ptr).Elem()
	for i := range v.NumField() {
		if d := v.Type().Field(i).Tag.Get("default"); d != "" {
			if err := assign(v.Field(i), d); err != nil {
				panic(fmt.Sprintf("default tag of %s: %v", v.Type().Field(i).Name, err))
			}
		}
	}
}

// describe reads the tags of the struct that ptr points to, and its present values as defaults.
func describe(driver string, ptr any) []Option {
	v := reflect.ValueOf(ptr).Elem()
	var list []Option
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name := f.Tag.Get("option")
		if name == "" {
			continue
		}
		o := Option{
			Key: name, Env: f.Tag.Get("env"), Default: format(v.Field(i)), Help: f.Tag.Get("help"),
			Change: Change(f.Tag.Get("change")), Backend: driver,
		}
		if driver != "" {
			o.Key = driver + "." + name
		}
		if o.Change == "" {
			o.Change = Restart
		}
		if o.Change.Advice() == "" || o.Help == "" {
			panic(fmt.Sprintf("option %s: no help or an unknown change tag", o.Key))
		}
		if s := f.Tag.Get("values"); s != "" {
			o.Values = strings.Split(s, ",")
		}
		list = append(list, o)
	}
	return list
}

// checkPaths refuses relative paths: the process's working directory must not decide where data lies.
func (c *Core) checkPaths() error {
	paths := append([]string{c.Root, c.Containerd}, c.Stores...)
	if c.Snapshotter != "" {
		paths = append(paths, c.Snapshotter)
	}
	for _, p := range paths {
		if !filepath.IsAbs(p) || filepath.Clean(p) != p || p == "/" {
			return fmt.Errorf("path %q of root, stores or a socket: want an absolute path without a slash at its end: %w", p, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}
