package cli

import (
	"io"

	"github.com/spf13/cobra"

	"strata/backend/store"
)

func (s *session) ls() *cobra.Command {
	var long, quiet bool
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List layers",
		Long: `List layers.

FILES is the sum of the file sizes in the tar that the layer was filled from, parents not counted: what docker history shows. What
layers occupy on disk takes time to measure: strata usage does. ID is the layer's name on disk and in paths of mounts.`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.with(cmd.Context(), false, func(t *target) error {
				list, err := t.List(cmd.Context())
				if err != nil {
					return err
				}
				return s.print(emptyNotNull(list), func(w io.Writer) { layers(w, list, long, quiet) })
			})
		},
	}
	cmd.Flags().BoolVar(&long, "no-trunc", false, "print whole names")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print whole names and nothing else")
	return cmd
}

func layers(w io.Writer, list []store.Info, long, quiet bool) {
	name := short
	if long {
		name = func(s string) string { return s }
	}
	if !quiet {
		row(w, "NAME", "ID", "PARENT", "STATE", "CHILDREN", "MOUNTS", "FILES", "CREATED")
	}
	for _, l := range list {
		if quiet {
			row(w, l.Name)
			continue
		}
		row(w, name(l.Name), l.ID, orDash(name(l.Parent)), stateOf(l), l.Children, l.Mounts, tarSize(l), age(l.Created))
	}
}

// stateOf is the state in words: a ready layer is sealed, that is read-only for ever, or writable.
func stateOf(l store.Info) string {
	switch {
	case l.State != store.StateReady:
		return string(l.State)
	case l.Sealed:
		return "sealed"
	}
	return "writable"
}

// tarSize is the sum of the file sizes that Docker shows for an image layer; it costs nothing to know.
func tarSize(l store.Info) string {
	if l.Applied == nil {
		return "-"
	}
	return size(l.Applied.Size)
}

// emptyNotNull makes an empty list [] in JSON.
func emptyNotNull[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
