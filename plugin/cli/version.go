package cli

import (
	"io"

	"github.com/spf13/cobra"
)

func (s *session) version() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print this program's version; that of the running plugin is in info",
		Args:  arguments(0, 0),
		RunE:  func(*cobra.Command, []string) error { return s.printVersion() },
	}
}

func (s *session) printVersion() error {
	return s.print(s.Version, func(w io.Writer) {
		row(w, "strata "+s.Version.Version, orDash(s.Version.Revision), s.Version.Go)
	})
}
