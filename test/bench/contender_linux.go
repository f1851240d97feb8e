package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"strata/test/e2e/engine"
)

// contender is a storage driver with a dockerd of its own.
type contender struct {
	name   string
	strata string // the binary of the plugin
	m      *engine.Machine
	api    *api
	stop   func() error
}

// kind says how to make a contender.
type kind struct {
	name     string
	driver   string
	settings []string // of the Strata plugin, or arguments of the null driver
	plugin   string   // directory of the Strata plugin
}

// beforeSuffix ends the names of contenders that are the older of two Stratas.
const beforeSuffix = ", before"

// versions are the plugin directories that are measured, by what they add to a contender's name.
func (o options) versions() []struct{ suffix, plugin string } {
	list := []struct{ suffix, plugin string }{{"", o.plugin}}
	if o.before != "" {
		list = append(list, struct{ suffix, plugin string }{beforeSuffix, o.before})
	}
	return list
}

// binary is the program in a plugin directory, as others have to name it.
func binary(plugin string) (string, error) {
	return filepath.Abs(filepath.Join(plugin, "rootfs/strata"))
}

// turns are the numbers of contenders in the order of a round: every other round backwards, so that nobody always
// runs after the same one.
func turns(round, n int) []int {
	order := make([]int, n)
	for i := range order {
		order[i] = i
		if round%2 == 1 {
			order[i] = n - 1 - i
		}
	}
	return order
}

// stores says whether what is loaded is really there.
func (c *contender) stores() bool { return !strings.HasPrefix(c.name, "null") }

// kinds lists the contenders, the one that all are compared with first.
func kinds(o options) []kind {
	settings := o.settings()
	all := []kind{
		{"layer", "strata", settings, ""},
		{"none", "strata", append(slices.Clone(settings), "STRATA_SYNC=none"), ""},
		{"inexact", "strata", append(slices.Clone(settings), "STRATA_SYNC=none", "STRATA_EXACT_DIFFS=false"), ""},
		{"null", "null", []string{"-exact=true"}, ""},
		{"null-inexact", "null", []string{"-exact=false"}, ""},
	}
	chosen := []kind{{o.builtin, o.builtin, nil, ""}}
	for _, k := range all {
		switch {
		case o.only != "" && !has(o.only, k.name):
		case k.driver == "strata":
			for _, v := range o.versions() {
				chosen = append(chosen, kind{k.name + v.suffix, k.driver, k.settings, v.plugin})
			}
		default:
			chosen = append(chosen, k)
		}
	}
	return chosen
}

// newContender boots a machine and starts a dockerd in it that uses the driver.
func newContender(ctx context.Context, k kind, o options) (_ *contender, err error) {
	progress("starting %s", k.name)
	m, err := engine.Boot(ctx, engine.Config{FS: o.fs})
	if err != nil {
		return nil, err
	}
	c := &contender{name: k.name, m: m}
	if c.strata, err = binary(k.plugin); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	var d *engine.Daemon
	c.stop = func() error {
		if d != nil {
			return errors.Join(d.Stop(), m.Close())
		}
		return m.Close()
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start %s: %w", k.name, err), c.stop())
		}
	}()
	switch k.driver {
	case "strata":
		err = installPlugin(ctx, m, k.settings, k.plugin)
	case "null":
		err = startNull(ctx, m, k.settings)
	}
	if err != nil {
		return nil, err
	}
	if d, err = m.StartDocker(ctx, "--storage-driver="+k.driver); err != nil {
		return nil, err
	}
	c.api = newAPI(m.Path("/run/docker.sock"))
	return c, nil
}

// installPlugin makes Strata known to a dockerd that is then stopped again.
func installPlugin(ctx context.Context, m *engine.Machine, settings []string, dir string) error {
	d, err := m.StartDocker(ctx, "--storage-driver=vfs")
	if err != nil {
		return err
	}
	settings = append([]string{"plugin", "set", "strata", "STRATA_LOG_LEVEL=warn"}, settings...)
	for _, args := range [][]string{{"plugin", "create", "strata", dir}, settings, {"plugin", "enable", "strata"}} {
		if _, err := engine.Output(m.Docker(ctx, args...)); err != nil {
			return errors.Join(err, d.Stop())
		}
	}
	return d.Stop()
}

// startNull runs the null driver of this program in the machine, until the machine is closed.
func startNull(ctx context.Context, m *engine.Machine, args []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	socket := "/run/docker/plugins/null.sock"
	if err := os.MkdirAll(m.Path(filepath.Dir(socket)), 0o755); err != nil {
		return err
	}
	cmd := m.Command(ctx, self, append([]string{"null", "-socket", socket, "-dir", "/var/lib/null"}, args...)...)
	if err := cmd.Start(); err != nil {
		return err
	}
	for range 100 {
		if _, err := os.Stat(m.Path(socket)); err == nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return errors.New("null driver does not listen")
}

// settle waits until the contender has nothing left to do in the background.
func (c *contender) settle(ctx context.Context) error {
	if procs, err := c.m.Find("strata"); err != nil || len(procs) == 0 {
		return err
	}
	return awaitDeletions(func() *exec.Cmd { return c.m.Command(ctx, c.strata, "info", "--json") })
}

// awaitDeletions asks Strata until it has deleted all that was removed.
func awaitDeletions(info func() *exec.Cmd) error {
	for range 600 {
		out, err := engine.Output(info())
		if err != nil {
			return err
		}
		if strings.Contains(strings.ReplaceAll(out, " ", ""), `"deleting":0`) {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return errors.New("still deleting after a minute")
}
