package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"strata/backend/all"
)

// errLost ends a run in which something was lost, which the report names.
var errLost = errors.New("something was lost")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	o, err := parse(os.Args[1:])
	if err == nil {
		err = run(ctx, o)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

// run soaks and prints the report. errLost if something was lost.
func run(ctx context.Context, o options) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root")
	}
	if err := log.SetLevel("error"); err != nil { // of the content store in this process
		return err
	}
	s, err := soak(ctx, o)
	if s == nil {
		return err
	}
	if err := errors.Join(err, s.report.write(os.Stdout, o)); err != nil {
		return err
	}
	if s.report.lost() {
		return errLost
	}
	return nil
}

// A ground is a backend on a file system that it can have.
type ground struct {
	backend string
	fs      string
}

// grounds are the choices, by name: the file systems of each backend. One that is called like its backend has no name of
// its own.
func grounds() map[string]ground {
	choices := map[string]ground{}
	for _, d := range all.Backends() {
		for _, g := range d.Grounds {
			name := d.Name + "-" + g.FS
			if d.Name == g.FS {
				name = d.Name
			}
			choices[name] = ground{d.Name, g.FS}
		}
	}
	return choices
}

// options are the command line.
type options struct {
	ground
	name     string // of the ground
	strata   string // the program
	duration time.Duration
	seed     uint64
	docker   int           // clients that speak Docker's protocol
	snapshot int           // clients that speak containerd's
	rivals   int           // clients that share their names
	keepers  int           // that check, repair and collect, beside one
	patience time.Duration // what a call may take
	rss      int64         // bytes of memory that the program may take
	log      string        // file that the program's log is kept in, "" for none
	troubles string        // comma-separated
}

func parse(args []string) (options, error) {
	var o options
	set := flag.NewFlagSet("soak", flag.ContinueOnError)
	set.StringVar(&o.name, "on", "overlay-ext4", "`ground`: "+strings.Join(slices.Sorted(maps.Keys(grounds())), ", "))
	set.StringVar(&o.strata, "strata", "build/plugin/rootfs/strata", "`program` that is soaked")
	set.DurationVar(&o.duration, "duration", time.Hour, "how long the load lasts")
	set.Uint64Var(&o.seed, "seed", 1, "what the plan follows from")
	set.IntVar(&o.docker, "docker", 4, "how many clients speak Docker's protocol")
	set.IntVar(&o.snapshot, "snapshotter", 3, "how many clients speak containerd's protocol")
	set.IntVar(&o.rivals, "rivals", 2, "how many clients use the same names at the same time")
	set.IntVar(&o.keepers, "keepers", 2, "how many check, repair and collect, beside one")
	set.DurationVar(&o.patience, "patience", 2*time.Minute, "what a call may take")
	rss := set.Int64("rss", 256, "`MiB` of memory that the program may take")
	set.StringVar(&o.log, "log", "", "`file` that the program's log is kept in")
	set.StringVar(&o.troubles, "troubles", "kill,restart,full,rot,calm", "comma-separated: what happens to the program")
	if err := set.Parse(args); err != nil {
		return o, err
	}
	o.rss = *rss << 20
	var ok bool
	if o.ground, ok = grounds()[o.name]; !ok {
		return o, fmt.Errorf("-on %s: want one of %s", o.name, strings.Join(slices.Sorted(maps.Keys(grounds())), ", "))
	}
	return o, nil
}

// progress tells on standard error what is going on.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}
