package cli

import "github.com/spf13/cobra"

func (s *session) export() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "export NAME",
		Short: "Write the whole tree that a layer shows, its parents included, as a tar",
		Long:  "Write the whole tree that a layer shows, its parents included, as a tar.\n\n" + outputHelp,
		Args:  arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.with(cmd.Context(), true, func(t *target) error {
				l, err := t.find(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return s.writeTar(cmd.Context(), t, l.Name, "", file)
			})
		},
	}
	outputFlag(cmd, &file)
	return cmd
}
