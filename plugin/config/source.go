package config

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// Assignment is one key with one value, as somebody wrote it.
type Assignment struct {
	Key    string
	Value  string
	Items  []string // the value if it was written as a JSON list; may be empty, then not nil
	Origin string   // for messages: a variable, flag or file
}

// Source is everything that was assigned in one place.
type Source struct {
	Name        string // "environment", "flags", "config file", "--storage-opt"
	Assignments []Assignment
}

// Names of sources.
const (
	SourceDefault    = "default"
	SourceEnv        = "environment"
	SourceFlags      = "flags"
	SourceFile       = "config file"
	SourceStorageOpt = "--storage-opt"
	SourceStore      = "store" // what a store at rest knows of itself
)

// EnvOptions is the variable that carries any number of settings, separated by blanks.
const EnvOptions = "STRATA_OPTIONS"

// FromEnv reads the variables that begin with STRATA_ from an environment as of os.Environ. An
// empty variable is as good as none, since `docker plugin set` cannot remove one. Variables that
// are not settings but facts about the container (see [PluginEnv]) and those of test programs
// are passed over; any other STRATA_ variable is an error.
func (t *Table) FromEnv(environ []string) (Source, error) {
	src := Source{Name: SourceEnv}
	byEnv := map[string]string{}
	for _, o := range t.options {
		if o.Env != "" {
			byEnv[o.Env] = o.Key
		}
	}
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		key, isSetting := byEnv[name]
		switch {
		case !strings.HasPrefix(name, "STRATA_") || value == "" || isFact(name):
		case isSetting:
			src.Assignments = append(src.Assignments, Assignment{Key: key, Value: value, Origin: name})
		case name == EnvOptions:
			more, err := parsePairs(strings.Fields(value), name)
			if err != nil {
				return Source{}, err
			}
			src.Assignments = append(src.Assignments, more...)
		default:
			return Source{}, fmt.Errorf("environment variable %s is unknown; the known ones are %s: %w", name, strings.Join(t.envNames(), ", "), errdefs.ErrInvalidArgument)
		}
	}
	return src, nil
}

func (t *Table) envNames() []string {
	var names []string
	for _, o := range t.options {
		if o.Env != "" {
			names = append(names, o.Env)
		}
	}
	return append(names, EnvOptions)
}

// FromFlags takes KEY=VALUE pairs as given to --option.
func FromFlags(pairs []string) (Source, error) {
	list, err := parsePairs(pairs, "--option")
	return Source{Name: SourceFlags, Assignments: list}, err
}

// FromStorageOpts takes the strings that dockerd was given as --storage-opt.
func FromStorageOpts(opts []string) (Source, error) {
	list, err := parsePairs(opts, "--storage-opt")
	for _, a := range list {
		if a.Key == "size" { // which dockerd's own drivers have
			return Source{}, fmt.Errorf("--storage-opt size=%s of dockerd: there is no default size limit; limit a container by docker run --storage-opt size=%s: %w",
				a.Value, a.Value, errdefs.ErrInvalidArgument)
		}
	}
	return Source{Name: SourceStorageOpt, Assignments: list}, err
}

func parsePairs(pairs []string, origin string) ([]Assignment, error) {
	list := make([]Assignment, 0, len(pairs))
	for _, p := range pairs {
		key, value, ok := strings.Cut(p, "=")
		key = strings.TrimSpace(key)
		if !ok || key == "" {
			return nil, fmt.Errorf("%s %q: want KEY=VALUE: %w", origin, p, errdefs.ErrInvalidArgument)
		}
		list = append(list, Assignment{Key: key, Value: strings.TrimSpace(value), Origin: origin})
	}
	return list, nil
}
