package main

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A ground is what everybody stores on: a fresh file system each. On one that is shared, who comes second
// pays for what the first did (ext4 without a journal does not reuse deleted inodes for minutes, and looks at each:
// fs/ext4/ialloc.c, recently_deleted).
type ground struct {
	fs      string
	builtin string   // dockerd's own driver for it, which all others are compared with
	options []string // of Strata
	plugin  []string // further settings of the plugin
	// What is measured unless something else is asked for.
	level, parts, only string
	rounds             int
}

// grounds are the choices, by file system.
func grounds() map[string]ground {
	const everything = "debian,many,big,deep,copies,runs"
	return map[string]ground{
		"ext4":  {fs: "ext4", builtin: "overlay2", level: "docker,driver", parts: everything, rounds: 5},
		"btrfs": {fs: "btrfs", builtin: "btrfs", options: []string{"backend=btrfs"}, level: "docker", parts: everything, only: "layer,none", rounds: 5},
		// Most kernels have ZFS in emulated guests only: less of everything.
		"zfs": {
			fs: "zfs", builtin: "zfs", options: []string{"backend=zfs"}, plugin: []string{"host.source=/", "zfs.path=/dev/zfs"},
			level: "docker", parts: "small,copies,many", only: "layer,none", rounds: 1,
		},
	}
}

// settings are those that the plugin gets.
func (g ground) settings() []string {
	settings := slices.Clone(g.plugin)
	for _, o := range g.options {
		name, value, _ := strings.Cut(o, "=")
		settings = append(settings, "STRATA_"+strings.ToUpper(name)+"="+value)
	}
	return settings
}

// where names the file system for the table's head, with a comma. The level suite has several, and names them in its rows.
func (o options) where() string {
	if o.level == "suite" {
		return ""
	}
	return o.fs + ", "
}

// options are the command line.
type options struct {
	ground
	plugin string // plugin directory of Strata
	before string // that of an older Strata, "" to compare with none
	sample string // directory for the samples of both
	suite  string // package strata/test/benchsuite, compiled with containerd's benchmark
	dir    string // of the workloads, "" for one that is deleted
	quick  bool
	make   bool
}

func parse(args []string) (options, error) {
	var o options
	set := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs := set.String("fs", "ext4", "`file system` that everybody stores on: ext4, btrfs or zfs")
	set.StringVar(&o.plugin, "plugin", "build/plugin", "plugin `directory` of Strata")
	set.StringVar(&o.before, "before", "", "plugin `directory` of another Strata, which takes turns with -plugin")
	set.StringVar(&o.sample, "samples", "", "`directory` for the files before and after, of what both have taken, for benchstat")
	set.StringVar(&o.suite, "suite", "build/benchsuite.test", "`program` that runs containerd's benchmark at the level suite")
	set.StringVar(&o.dir, "workloads", "", "`directory` of the images, which are made if it has none")
	set.BoolVar(&o.make, "make", false, "make them and end")
	rounds := set.Int("rounds", 0, "how often everything is measured")
	set.BoolVar(&o.quick, "quick", false, "a tenth of the data and two rounds, to see that it works")
	only := set.String("only", "", "comma-separated `contenders`, without dockerd's own driver, which always runs")
	level := set.String("level", "", "what is measured: comma-separated docker, driver, scale, snapshotter, suite")
	parts := set.String("parts", "", "comma-separated `workloads` at the levels docker and snapshotter: debian, many, big, deep, copies, runs, small")
	if err := set.Parse(args); err != nil {
		return o, err
	}
	var ok bool
	if o.ground, ok = grounds()[*fs]; !ok {
		return o, fmt.Errorf("-fs %s: want one of %s", *fs, strings.Join(slices.Sorted(maps.Keys(grounds())), ", "))
	}
	for _, choice := range []struct{ to, from *string }{{&o.only, only}, {&o.level, level}, {&o.parts, parts}} {
		if *choice.from != "" {
			*choice.to = *choice.from
		}
	}
	if *rounds > 0 {
		o.rounds = *rounds
	}
	if o.quick {
		o.rounds = min(o.rounds, 2)
	}
	if o.before != "" && (has(o.level, "scale") || has(o.level, "suite")) {
		return o, errors.New("-before: the levels scale and suite have no turns that two could take")
	}
	return o, nil
}

// has tells whether a comma-separated list has a word.
func has(list, word string) bool { return slices.Contains(strings.Split(list, ","), word) }
