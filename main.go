// Strata is a storage driver for Docker that lives outside the daemon: a GraphDriver plugin, and
// the command that looks after its store. See README.md; the command itself is package plugin/cli.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"strata/backend/all"
	"strata/plugin/cli"
	"strata/plugin/control"
)

// version is set by the linker: -ldflags "-X main.version=1.2.3".
var version string

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	app := cli.App{
		Backends: all.Backends(),
		Version:  thisVersion(),
		Environ:  os.Environ(),
		Stdout:   os.Stdout,
		Stderr:   os.Stderr,
	}
	return app.Run(ctx, os.Args[1:])
}

// thisVersion is the linker's, or else that of the module or commit that the program was built from.
func thisVersion() control.Version {
	v := control.Version{Version: version, Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			v.Revision = s.Value
		}
	}
	if v.Version == "" {
		v.Version = info.Main.Version
	}
	return v
}
