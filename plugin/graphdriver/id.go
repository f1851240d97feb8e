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

// idGrammar is what Docker names layers: 64 lower-case hexadecimal digits, the same with "-init"
// for a container's init layer, or 25 digits of base 36 for a snapshot of BuildKit.
var idGrammar = regexp.MustCompile(`^([0-9a-f]{64}(-init)?|[0-9a-z]{25})$`)

// checkID refuses everything that is not a layer's name, above all the empty one, which a retried
// call has, and anything that could be a path.
func checkID(id string) error {
	if !idGrammar.MatchString(id) {
		return fmt.Errorf("layer id %.80q: %w: want 64 hexadecimal digits, the same with -init, or 25 characters of [0-9a-z]",
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
