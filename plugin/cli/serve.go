package cli

import (
	"github.com/spf13/cobra"

	"strata/plugin/config"
	"strata/plugin/daemon"
)

func (s *session) serve() *cobra.Command {
	var socket, backend, snapshotter, containerd string
	cmd := &cobra.Command{
		Use:   "serve [--graphdriver-socket PATH] [--snapshotter-socket PATH]",
		Short: "Serve dockerd and containerd on sockets until SIGTERM",
		Long: `Serve Docker's GraphDriver protocol and the control API on one socket, containerd's snapshots and
diff APIs on another, or both, until SIGTERM.

In a managed plugin Docker runs this. Outside a container the first socket is
/run/docker/plugins/strata.sock, and dockerd is started with --experimental --storage-driver strata.
The second is for containerd, Docker 28 and later, and Kubernetes: it is named in containerd's configuration.

strata options lists the settings, and its help says which source outranks which.

The log goes to standard output, errors to standard error.`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			flags, err := config.FromFlags(s.pairs)
			if err != nil {
				return err
			}
			for _, f := range []struct{ key, value string }{
				{"backend", backend}, {"root", s.rest}, {"snapshotter-socket", snapshotter}, {"containerd-socket", containerd},
			} {
				if f.value != "" {
					flags.Assignments = append(flags.Assignments, config.Assignment{Key: f.key, Value: f.value, Origin: "--" + f.key})
				}
			}
			return daemon.Run(cmd.Context(), daemon.Config{
				Socket: socket, Backends: s.Backends, Environ: s.Environ, Flags: flags, Version: s.Version, Log: s.Stdout, Errors: s.Stderr,
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&socket, "graphdriver-socket", "", "where to listen for Docker, and for the other commands")
	f.StringVar(&snapshotter, "snapshotter-socket", "", "the same as --option snapshotter-socket=PATH")
	f.StringVar(&containerd, "containerd-socket", "", "the same as --option containerd-socket=PATH")
	f.StringVar(&backend, "backend", "", "the same as --option backend=NAME")
	return cmd
}
