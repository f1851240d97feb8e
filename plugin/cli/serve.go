package cli

import (
	"errors"
	"slices"

	"github.com/spf13/cobra"

	"strata/plugin/cli/daemon"
	"strata/plugin/config"
)

func (s *session) serve() *cobra.Command {
	var socket, backend string
	cmd := &cobra.Command{
		Use:   "serve --graphdriver-socket PATH",
		Short: "Serve dockerd on a socket until SIGTERM",
		Long: `Serve Docker's GraphDriver protocol and the control API on a socket until SIGTERM.

In a managed plugin Docker runs this. Outside a container the socket is
/run/docker/plugins/strata.sock, and dockerd is started with --experimental --storage-driver strata.

Settings come from the environment (STRATA_...), are outdone by flags, those by the
store's config file, and that by --storage-opt of dockerd. strata options lists them.

The log goes to standard output.`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if socket == "" {
				return usageError{errors.New("serve needs --graphdriver-socket PATH")}
			}
			options := slices.Clone(s.pairs)
			if backend != "" {
				options = append(options, "backend="+backend)
			}
			if s.rest != "" {
				options = append(options, "root="+s.rest)
			}
			flags, err := config.FromFlags(options)
			if err != nil {
				return err
			}
			return daemon.Run(cmd.Context(), daemon.Config{
				Socket: socket, Backends: s.Backends, Environ: s.Environ, Flags: flags, Version: s.Version, Log: s.Stdout,
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&socket, "graphdriver-socket", "", "where to listen")
	f.StringVar(&backend, "backend", "", "the same as --option backend=NAME")
	return cmd
}
