package cli

import (
	"bufio"
	"errors"
	"fmt"
	"iter"

	"github.com/spf13/cobra"

	"strata/backend"
	"strata/plugin"
	"strata/plugin/control"
)

func (s *session) changes() *cobra.Command {
	return &cobra.Command{
		Use:   "changes NAME [PARENT]",
		Short: "List the paths that differ between a layer and its parent: A added, C changed, D deleted",
		Long: "List the paths that differ between a layer and its parent: A added, C changed, D deleted.\n\n" +
			`PARENT may be any other layer; "" is the empty tree.`,
		Args: arguments(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.with(cmd.Context(), true, func(t *target) error {
				name, parent, err := t.pair(cmd.Context(), args)
				if err != nil {
					return err
				}
				return s.printChanges(t.Changes(cmd.Context(), name, parent))
			})
		},
	}
}

// printChanges prints changes as they come.
func (s *session) printChanges(changes iter.Seq2[backend.Change, error]) (err error) {
	w := bufio.NewWriter(s.Stdout)
	defer func() { err = errors.Join(err, w.Flush()) }()
	if s.json {
		if err := plugin.WriteArray(w, control.PathChanges(changes), "  "); err != nil {
			return err
		}
		_, err = fmt.Fprintln(w)
		return err
	}
	for c, err := range changes {
		if err != nil {
			return err
		}
		row(w, c.Kind.String()+" "+c.Path)
	}
	return nil
}
