package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"strata/test/e2e/engine"
)

// suiteIterations is how many times each run adds 16 layers to those that are there. Overlay takes 500 of them.
const suiteIterations = 3

// suiteGrounds lists the backends, and the file systems that they are measured on.
func suiteGrounds() []suiteGround {
	return []suiteGround{{"overlay", "ext4"}, {"vfs", "ext4"}, {"btrfs", "btrfs"}}
}

type suiteGround struct{ backend, fs string }

// suiteRun is one snapshotter, measured once on a file system of its own.
type suiteRun struct {
	contender string // as the table has it
	fs        string
	bench     string // as package strata/test/benchsuite has it
	flag      string // tells the benchmark where its snapshotter is
	place     string // the flag's value
	backend   string // of Strata, "" for snapshotters of containerd's
	sync      string
}

func (r suiteRun) String() string {
	if r.backend == "" {
		return fmt.Sprintf("containerd's %s on %s", r.contender, r.fs)
	}
	return fmt.Sprintf("%s with sync=%s on %s", r.backend, r.sync, r.fs)
}

// benchSuite runs containerd's own benchmark of snapshotters. containerd's are in it themselves; Strata is on a socket. Each
// round begins with another one.
func benchSuite(ctx context.Context, o options, _ *workloads, t *table) error {
	runs := suiteRuns(o)
	for i := range o.rounds {
		progress("round %d", i+1)
		for _, r := range slices.Concat(runs[i%len(runs):], runs[:i%len(runs)]) {
			progress("%s", r)
			measured, err := r.run(ctx, o)
			if err != nil {
				return fmt.Errorf("containerd's benchmark of %s: %w", r, err)
			}
			r.add(t, measured)
		}
	}
	return nil
}

// suiteRuns lists what a round has, containerd's overlayfs, with which all are compared, first on each file system.
func suiteRuns(o options) (list []suiteRun) {
	const dir = "/var/lib/containerd"
	var done []string
	for _, g := range suiteGrounds() {
		if !slices.Contains(done, g.fs) {
			done = append(done, g.fs)
			list = append(list, suiteRun{"overlayfs", g.fs, "BenchmarkOverlay", "overlay.rootPath", dir, "", ""},
				suiteRun{"native", g.fs, "BenchmarkNative", "native.rootPath", dir, "", ""})
			if g.fs == "btrfs" {
				list = append(list, suiteRun{"btrfs", g.fs, "BenchmarkBtrfs", "btrfs.rootPath", dir, "", ""})
			}
		}
		for _, sync := range []string{"layer", "none"} {
			if o.only == "" || has(o.only, sync) {
				list = append(list, suiteRun{sync, g.fs, "BenchmarkStrata", "strata.socket", snapshotterSocket, g.backend, sync})
			}
		}
	}
	return list
}

// add records what was measured, of containerd's snapshotters beside each backend on that file system.
func (r suiteRun) add(t *table, measured map[string]time.Duration) {
	for _, g := range suiteGrounds() {
		if g.fs == r.fs && (r.backend == "" || r.backend == g.backend) {
			for _, m := range suiteMeasures() {
				t.add(fmt.Sprintf("%s on %s, %s", g.backend, g.fs, m), r.contender, measured[m])
			}
		}
	}
}

// run measures on a new machine.
func (r suiteRun) run(ctx context.Context, o options) (_ map[string]time.Duration, err error) {
	m, err := engine.Boot(ctx, engine.Config{FS: r.fs, Bare: true})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err == nil {
			err = nothingLeft(m)
		}
		err = errors.Join(err, m.Close())
	}()
	if r.backend != "" {
		program, err := filepath.Abs(filepath.Join(o.plugin, "rootfs/strata"))
		if err != nil {
			return nil, err
		}
		s, err := m.Serve(ctx, "strata", snapshotterSocket, program, "serve", "--snapshotter-socket", snapshotterSocket,
			"--graphdriver-socket", strataSocket, "--backend", r.backend, "--option", "sync="+r.sync, "--option", "log-level=warn")
		if err != nil {
			return nil, err
		}
		defer func() {
			if err = errors.Join(err, s.Stop()); err != nil {
				err = fmt.Errorf("%w; Strata's log: %s", err, s.Log())
			}
		}()
	}
	suite, err := filepath.Abs(o.suite)
	if err != nil {
		return nil, err
	}
	unix.Sync()
	return readSuite(m.Command(ctx, suite, "-test.run=^$", "-test.bench=^"+r.bench+"$",
		fmt.Sprintf("-test.benchtime=%dx", suiteIterations), "-"+r.flag, r.place))
}

// nothingLeft is an error if there are processes or mounts that the machine did not begin with.
func nothingLeft(m *engine.Machine) error {
	left, err := m.Left()
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("left behind: %s", strings.Join(left, "; "))
	}
	return err
}

// suiteMeasures are what the benchmark prints: the time of 16 layers, and what is in it.
func suiteMeasures() []string { return []string{"run", "prepare", "write", "commit"} }

// readSuite runs the benchmark and reads what it prints.
func readSuite(cmd *exec.Cmd) (map[string]time.Duration, error) {
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	measured, err := parseSuite(string(out))
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	return measured, nil
}

// parseSuite reads the lines of Go's benchmark format, by what comes after the slash in their names.
func parseSuite(out string) (map[string]time.Duration, error) {
	measured := map[string]time.Duration{}
	for _, f := range regexp.MustCompile(`(?m)^Benchmark\w+/(\w+)\S*\s+(\d+)\s+([\d.]+) ns/op`).FindAllStringSubmatch(out, -1) {
		if f[2] != strconv.Itoa(suiteIterations) {
			return nil, fmt.Errorf("%s: %s iterations, not %d", f[1], f[2], suiteIterations)
		}
		ns, err := strconv.ParseFloat(f[3], 64)
		if err != nil {
			return nil, err
		}
		measured[f[1]] = time.Duration(ns)
	}
	for _, m := range suiteMeasures() {
		if measured[m] <= 0 {
			return nil, fmt.Errorf("%s was not measured", m)
		}
	}
	return measured, nil
}
