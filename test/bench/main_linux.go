package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"strata/test/bench/null"
)

// options are the command line.
type options struct {
	plugin  string // plugin directory of Strata
	rounds  int
	quick   bool
	only    string
	level   string
	parts   string
	readme  bool
	verbose bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 && args[0] == "null" {
		return serveNull(ctx, args[1:])
	}
	var o options
	set := flag.NewFlagSet("bench", flag.ContinueOnError)
	set.StringVar(&o.plugin, "plugin", "build/plugin", "plugin `directory` of Strata")
	set.IntVar(&o.rounds, "rounds", 5, "how often everything is measured")
	set.BoolVar(&o.quick, "quick", false, "a tenth of the data and two rounds, to see that it works")
	set.StringVar(&o.only, "only", "", "comma-separated `contenders`, without overlay2, which always runs")
	set.StringVar(&o.level, "level", "docker,driver", "what is measured: docker, driver or both")
	set.StringVar(&o.parts, "parts", "debian,many,big,deep,builds", "comma-separated `workloads` at the level docker")
	if err := set.Parse(args); err != nil {
		return err
	}
	if o.quick {
		o.rounds = min(o.rounds, 2)
	}
	return bench(ctx, o)
}

func bench(ctx context.Context, o options) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("needs root")
	}
	dir, err := os.MkdirTemp("/var/tmp", "strata-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	w, err := makeWorkloads(ctx, dir, o.quick)
	if err != nil {
		return err
	}
	t := newTable()
	if strings.Contains(o.level, "driver") {
		if err := benchDriver(ctx, o, w, t); err != nil {
			return err
		}
	}
	if strings.Contains(o.level, "docker") {
		if err := benchDocker(ctx, o, w, t); err != nil {
			return err
		}
	}
	return t.write(os.Stdout, o)
}

// serveNull runs the null driver on a socket until it is told to end.
func serveNull(ctx context.Context, args []string) error {
	set := flag.NewFlagSet("bench null", flag.ContinueOnError)
	socket := set.String("socket", "", "`path` of the socket")
	d := &null.Driver{}
	set.StringVar(&d.Dir, "dir", "", "`directory` for empty directories")
	set.BoolVar(&d.Exact, "exact", true, "claim exact diffs")
	if err := set.Parse(args); err != nil {
		return err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", *socket)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: d, ReadHeaderTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() }) // what is served is worth nothing
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// progress tells on standard error what is going on.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}
