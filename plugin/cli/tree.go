package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"strata/plugin/control"
)

func (s *session) tree() *cobra.Command {
	var long bool
	cmd := &cobra.Command{
		Use:   "tree",
		Short: "Show which layer stands on which",
		Args:  arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.with(cmd.Context(), false, func(t *target) error {
				list, err := t.List(cmd.Context())
				if err != nil {
					return err
				}
				roots := control.Tree(list)
				return s.print(emptyNotNull(roots), func(w io.Writer) { branches(w, roots, "", long) })
			})
		},
	}
	cmd.Flags().BoolVar(&long, "no-trunc", false, "print whole names")
	return cmd
}

func branches(w io.Writer, nodes []*control.Node, indent string, long bool) {
	for i, n := range nodes {
		fork, further := "├─ ", "│  "
		if i == len(nodes)-1 {
			fork, further = "└─ ", "   "
		}
		name := n.Name
		if !long {
			name = short(name)
		}
		mounted := ""
		if n.Mounts > 0 {
			mounted = ", mounted"
		}
		row(w, fmt.Sprintf("%s%s%s  (%s%s)", indent, fork, name, stateOf(n.Info), mounted))
		branches(w, n.On, indent+further, long)
	}
}
