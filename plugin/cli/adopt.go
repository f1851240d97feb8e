package cli

import (
	"io"

	"github.com/spf13/cobra"

	"strata/backend/store"
)

func (s *session) adopt() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "adopt",
		Short: "List layers that another program has made in the backend's place, and take them in with --yes",
		Long: `List layers that another program has made in the backend's place, and take them in with --yes.

With the backend zfs these are the datasets of Docker's and podman's own zfs drivers below the same parent
dataset. Nothing is copied or renamed: afterwards they are layers of this store under the names that they have, and
the other program's still. It must not be running meanwhile, nor use them in turns with this store later. The store has
to be one that was made with exact-diffs=false: nobody can tell any more which tar those layers came from.`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.with(cmd.Context(), yes, func(t *target) error {
				list, err := t.Adopt(cmd.Context(), yes)
				if err != nil {
					return err
				}
				return s.print(emptyNotNull(list), func(w io.Writer) { printAdoptions(w, list) })
			})
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "take in what is listed")
	return cmd
}

func printAdoptions(w io.Writer, list []store.Adoption) {
	if len(list) == 0 {
		row(w, "nothing to adopt")
		return
	}
	row(w, "NAME", "PARENT", "ADOPTED")
	for _, a := range list {
		row(w, short(a.Name), orDash(short(a.Parent)), yesNo(a.Adopted))
	}
}
