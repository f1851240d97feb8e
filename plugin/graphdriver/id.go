package graphdriver

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
)

// idGrammar is what a client may call a layer. Docker takes 64 hexadecimal digits, the same with "-init", or 25
// digits of base 36 for a snapshot of BuildKit; its conformance suite takes words. A name is never part of a path.
var idGrammar = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}$`)

// checkID refuses everything that is not a layer's name, above all the empty one, which a retried call has, and
// anything that would be a path or an option elsewhere.
func checkID(id string) error {
	if !idGrammar.MatchString(id) {
		return fmt.Errorf("layer id %.80q: %w: want 1 to 128 characters of [a-zA-Z0-9_.-], the first neither a dot nor a dash",
			id, errdefs.ErrInvalidArgument)
	}
	return nil
}

// checkIDs checks a layer's ID and its parent's, which may be empty.
func checkIDs(id, parent string) error {
	if err := checkID(id); err != nil {
		return err
	}
	if parent == "" {
		return nil
	}
	if err := checkID(parent); err != nil {
		return fmt.Errorf("parent: %w", err)
	}
	return nil
}

// storageOptions are the keys of `docker run --storage-opt`.
type storageOptions struct {
	size int64 // bytes, 0 for no limit
}

// parseStorageOptions reads the options of one layer. ErrInvalidArgument.
func parseStorageOptions(opts map[string]string) (o storageOptions, err error) {
	known := map[string]func(value string) error{
		"size": func(value string) (err error) {
			o.size, err = units.RAMInBytes(value)
			if err == nil && o.size < 0 {
				err = errors.New("more than 8 EiB") // units does not notice the overflow
			}
			return err
		},
	}
	for key, value := range opts {
		set, ok := known[strings.ToLower(key)]
		if !ok {
			return o, fmt.Errorf("storage option %q is unknown, known are %s: %w", key, names(known), errdefs.ErrInvalidArgument)
		}
		if err := set(value); err != nil {
			return o, fmt.Errorf("storage option %s=%s: %w: %w", key, value, err, errdefs.ErrInvalidArgument)
		}
	}
	return o, nil
}

func names[V any](m map[string]V) string {
	list := make([]string, 0, len(m))
	for name := range m {
		list = append(list, name)
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}
