package cli

import (
	"io"

	"github.com/spf13/cobra"

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
				list, err := t.Changes(cmd.Context(), name, parent)
				if err != nil {
					return err
				}
				return s.print(control.PathChanges(list), func(w io.Writer) {
					for _, c := range list {
						row(w, c.Kind.String()+" "+c.Path)
					}
				})
			})
		},
	}
}
