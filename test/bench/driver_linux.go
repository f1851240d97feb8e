package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/docker/docker/pkg/archive"
	"golang.org/x/sys/unix"

	"strata/test/e2e/engine"
	"strata/test/unixhttp"
)

// driverBench measures the plugin over its socket, without dockerd, against dockerd's own code.
type driverBench struct {
	w     *workloads
	t     *table
	api   *api
	name  string
	layer int // for names of layers

	strata  string   // the binary
	options []string // arguments of strata serve
}

// driverKinds are the settings that are compared at this level.
func driverKinds() []struct {
	name    string
	options []string // arguments of strata serve
} {
	return []struct {
		name    string
		options []string
	}{
		{"plugin, sync=layer", nil},
		{"plugin, sync=none", []string{"sync=none"}},
		{"plugin, sync=none inexact", []string{"sync=none", "exact-diffs=false"}},
	}
}

func benchDriver(ctx context.Context, o options, w *workloads, t *table) error {
	for round := range o.rounds {
		progress("round %d of %d: docker's own code", round+1, o.rounds)
		if err := benchArchive(ctx, o.fs, w, t); err != nil {
			return err
		}
		for _, k := range driverKinds() {
			versions := o.versions()
			for _, i := range turns(round, len(versions)) {
				v := versions[i]
				strata, err := binary(v.plugin)
				if err != nil {
					return err
				}
				b := &driverBench{w: w, t: t, strata: strata, name: k.name + v.suffix, options: flags(k.options, o.options)}
				progress("round %d of %d: %s", round+1, o.rounds, b.name)
				if err := benchPlugin(ctx, o.fs, b); err != nil {
					return fmt.Errorf("%s: %w", b.name, err)
				}
			}
		}
	}
	return nil
}

// flags writes options as strata serve takes them.
func flags(options ...[]string) (args []string) {
	for _, o := range slices.Concat(options...) {
		args = append(args, "--option", o)
	}
	return args
}

// timeAs measures one operation of a contender.
func timeAs(t *table, measure, contender string, do func() error) error {
	unix.Sync()
	begin := time.Now()
	err := do()
	t.add(measure, contender, time.Since(begin))
	return err
}

// The names of the driver-level rows, where several functions add to them.
const (
	rowDiff    = "Diff, 20 files of many"
	rowChanges = "Changes, 20 files of many"
)

// applied are the layers that ApplyDiff is measured with.
func (w *workloads) applied() map[string]*engine.Layer {
	return map[string]*engine.Layer{
		"ApplyDiff, Debian root": w.Deb, "ApplyDiff, many small files": w.Many, "ApplyDiff, one big file": w.Big,
	}
}

// benchArchive measures the code with which dockerd's drivers unpack, compare and pack.
func benchArchive(ctx context.Context, fs string, w *workloads, t *table) (err error) {
	const name = "docker's code"
	m, err := engine.Boot(ctx, engine.Config{FS: fs})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	dir := m.Path("/var/lib")
	for measure, l := range w.applied() {
		to := filepath.Join(dir, filepath.Base(l.Path))
		if err := os.Mkdir(to, 0o755); err != nil {
			return err
		}
		err := timeAs(t, measure, name, func() error { return unpack(l.Path, to) })
		if err != nil {
			return err
		}
	}
	// Two trees that differ in 20 files, as the naive drivers compare them.
	lower, upper := filepath.Join(dir, "many.layer"), filepath.Join(dir, "upper")
	if err := errors.Join(os.Mkdir(upper, 0o755), unpack(w.Many.Path, upper), changeFiles(upper)); err != nil {
		return err
	}
	var changes []archive.Change
	err = timeAs(t, rowChanges, name, func() (err error) {
		changes, err = archive.ChangesDirs(upper, lower)
		return err
	})
	if err != nil {
		return err
	}
	return timeAs(t, rowDiff, name, func() error {
		r, err := archive.ExportChanges(upper, changes, archive.TarOptions{}.IDMap)
		if err != nil {
			return err
		}
		return errors.Join(unixhttp.Drain(r), r.Close())
	})
}

func unpack(path, to string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	_, err = archive.UnpackLayer(to, f, &archive.TarOptions{})
	return errors.Join(err, f.Close())
}

// changeFiles appends to 20 files of many.
func changeFiles(root string) error {
	for i := range 20 {
		path := filepath.Join(root, fmt.Sprintf("many/d0%d/f0%d05", 10+i, 10+i))
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString("changed\n")
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// benchPlugin runs a fresh plugin on a fresh store through everything once.
func benchPlugin(ctx context.Context, fs string, b *driverBench) (err error) {
	m, err := engine.Boot(ctx, engine.Config{FS: fs})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	if _, err := b.serve(ctx, m); err != nil {
		return err
	}
	if err := b.init(ctx); err != nil {
		return err
	}
	procs, err := m.Find("strata")
	if err != nil || len(procs) != 1 {
		return fmt.Errorf("%d processes called strata, %w", len(procs), err)
	}
	// The big layer first, so that the peak of memory is its own.
	if _, err := b.apply(ctx, "ApplyDiff, one big file", b.w.Big, ""); err != nil {
		return err
	}
	peak, _, err := procs[0].RSS()
	if err != nil {
		return err
	}
	b.t.note("%s: peak resident memory in ApplyDiff of one big file: %d MiB", b.name, peak>>20)
	if _, err := b.apply(ctx, "ApplyDiff, Debian root", b.w.Deb, ""); err != nil {
		return err
	}
	many, err := b.apply(ctx, "ApplyDiff, many small files", b.w.Many, "")
	if err != nil {
		return err
	}
	return errors.Join(b.change(ctx, m, many), b.cycle(ctx, many), b.removeAll(ctx))
}

// post calls a method of the protocol.
func (b *driverBench) post(ctx context.Context, method string, in map[string]any, out any) error {
	return b.api.JSON(ctx, http.MethodPost, "/GraphDriver."+method, in, out)
}

// serve starts the plugin in a machine, until that is closed or the result is called, and waits until it listens.
func (b *driverBench) serve(ctx context.Context, m *engine.Machine) (stop func() error, err error) {
	const socket = "/run/strata.sock"
	args := slices.Concat([]string{"serve", "--graphdriver-socket", socket, "--option", "root=/var/lib/strata"}, b.options)
	cmd := m.Command(ctx, b.strata, args...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	b.api = newAPI(m.Path(socket))
	for range 1000 {
		if _, err := os.Stat(m.Path(socket)); err == nil {
			return func() error { return errors.Join(terminate(m, "strata"), cmd.Wait()) }, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil, errors.New("plugin does not listen")
}

// terminate asks the processes of that name to end.
func terminate(m *engine.Machine, name string) error {
	procs, err := m.Find(name)
	for _, p := range procs {
		err = errors.Join(err, p.Signal(unix.SIGTERM))
	}
	return err
}

// init has the plugin open its store.
func (b *driverBench) init(ctx context.Context) error {
	return b.post(ctx, "Init", map[string]any{"Home": "/var/lib/docker/strata"}, nil)
}

// id returns a new name for a layer.
func (b *driverBench) id() string {
	b.layer++
	return fmt.Sprintf("%064x", b.layer)
}

func (b *driverBench) apply(ctx context.Context, measure string, l *engine.Layer, parent string) (string, error) {
	f, err := os.Open(l.Path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // only read
	id := b.id()
	if err := b.post(ctx, "Create", map[string]any{"ID": id, "Parent": parent}, nil); err != nil {
		return "", err
	}
	return id, timeAs(b.t, measure, b.name, func() error {
		return b.api.Call(ctx, http.MethodPost, "/GraphDriver.ApplyDiff?id="+id+"&parent="+parent, "", struct{ io.Reader }{f}, unixhttp.Drain)
	})
}

// get mounts a layer and returns where the real host sees it.
func (b *driverBench) get(ctx context.Context, id string) (string, error) {
	var reply struct{ Dir string }
	err := b.post(ctx, "Get", map[string]any{"ID": id}, &reply)
	return reply.Dir, err
}

// change measures Changes and Diff of a layer that changed a little of much.
func (b *driverBench) change(ctx context.Context, m *engine.Machine, parent string) error {
	id := b.id()
	if err := b.post(ctx, "CreateReadWrite", map[string]any{"ID": id, "Parent": parent}, nil); err != nil {
		return err
	}
	dir, err := b.get(ctx, id)
	if err != nil {
		return err
	}
	if err := errors.Join(changeFiles(m.Path(dir)), b.post(ctx, "Put", map[string]any{"ID": id}, nil)); err != nil {
		return err
	}
	of := map[string]any{"ID": id, "Parent": parent}
	for range repeats {
		var reply struct{ Changes []archive.Change }
		err := timeAs(b.t, rowChanges, b.name, func() error { return b.post(ctx, "Changes", of, &reply) })
		if err != nil {
			return err
		}
		if len(reply.Changes) != 41 { // 20 files, their directories, and /many
			return fmt.Errorf("%d changes instead of 41", len(reply.Changes))
		}
		err = timeAs(b.t, rowDiff, b.name, func() error { return b.diff(ctx, of) })
		if err != nil {
			return err
		}
	}
	return b.post(ctx, "Remove", map[string]any{"ID": id}, nil)
}

func (b *driverBench) diff(ctx context.Context, of map[string]any) error {
	body := fmt.Sprintf(`{"ID":%q,"Parent":%q}`, of["ID"], of["Parent"])
	return b.api.Call(ctx, http.MethodPost, "/GraphDriver.Diff", "", strings.NewReader(body), unixhttp.Drain)
}

// cycle measures the life of a container's layer, and the diff of a large one.
func (b *driverBench) cycle(ctx context.Context, parent string) error {
	for range repeats * 4 {
		id := b.id()
		err := timeAs(b.t, "Create + Get + Put + Remove", b.name, func() error {
			if err := b.post(ctx, "CreateReadWrite", map[string]any{"ID": id, "Parent": parent}, nil); err != nil {
				return err
			}
			if _, err := b.get(ctx, id); err != nil {
				return err
			}
			return errors.Join(b.post(ctx, "Put", map[string]any{"ID": id}, nil), b.post(ctx, "Remove", map[string]any{"ID": id}, nil))
		})
		if err != nil {
			return err
		}
	}
	return timeAs(b.t, "Diff, many small files", b.name, func() error {
		return b.diff(ctx, map[string]any{"ID": parent, "Parent": ""})
	})
}

// removeAll measures the removal of everything, nearest child first.
func (b *driverBench) removeAll(ctx context.Context) error {
	for ; b.layer > 0; b.layer-- {
		if err := b.post(ctx, "Remove", map[string]any{"ID": fmt.Sprintf("%064x", b.layer)}, nil); err != nil {
			return err
		}
	}
	return nil
}
