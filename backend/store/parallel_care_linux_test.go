package store_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"strata/backend/internal/loopfs"
	"strata/backend/store"
)

func (w *worker) setSync() {
	w.expect("set sync", w.store.SetSync([]store.SyncMode{store.SyncLayer, store.SyncNone}[rand.IntN(2)]))
}

func (w *worker) adopt() {
	if w.cfg.ExactDiffs {
		_, err := w.store.Adopt(w.ctx, true)
		w.expect("adopt", err)
		return
	}
	home := filepath.Join(w.cfg.Root, "data", w.cfg.Backend)
	for range 2 {
		if _, err := w.referee.plant(home); err != nil {
			w.t.Error(err)
		}
	}
	list, err := w.store.Adopt(w.ctx, true)
	w.expect("adopt", err, errdefs.IsUnavailable)
	for _, a := range list {
		if chance(50) {
			_, err := w.store.Usage(w.ctx, a.Name)
			w.expect("use what was adopted", err)
		}
		err := w.store.Discard(w.ctx, a.Name)
		w.expect("discard what was adopted", err)
	}
}

// check finds nothing but layers that somebody left unfinished, and removes no others.
func (w *worker) check() {
	begin := w.history.now()
	findings, err := w.store.Check(w.ctx, store.CheckOptions{Repair: chance(50), Deep: chance(30)})
	end := w.history.now()
	w.expect("check", err)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range findings {
		if f.Kind != store.FindingNotice && (f.Kind != store.FindingUnfinished || !w.spoilt[f.Layer]) {
			w.t.Errorf("check finds %+v", f)
		}
		if f.Repaired != "" {
			w.history.add(f.Layer, event{begin: begin, end: end, what: "repair", aspect: takes})
		}
	}
}

// gc removes what its client does not know, and nothing else.
func (w *worker) gc() {
	w.own++
	name := fmt.Sprintf("%s-%d-%d", garbage, w.number, w.own)
	w.expect("create garbage", w.store.Create(w.ctx, name, "", store.CreateOptions{}))
	o := store.GCOptions{Yes: true}
	if chance(50) {
		o.Known = w.known()
	}
	orphans, err := w.store.GC(w.ctx, o)
	w.expect("gc", err)
	for _, orphan := range orphans {
		if o.Known == nil || !strings.HasPrefix(orphan.Name, garbage) {
			w.t.Errorf("gc finds %+v", orphan)
		}
		w.collected.Add(1)
	}
	w.expect("remove garbage", w.store.Remove(w.ctx, name))
}

const garbage = "garbage"

// known are all names that anybody may use in this round, but those of garbage.
func (w *worker) known() map[string]bool {
	known := map[string]bool{}
	for _, name := range sharedNames {
		known[name] = true
	}
	for number := range parallelWorkers {
		for own := range parallelCalls + 1 {
			known[fmt.Sprintf("own-%d-%d", number, own)] = true
			known[fmt.Sprintf("own-%d-%d-committed", number, own)] = true
		}
	}
	w.referee.mu.Lock()
	planted := w.referee.planted
	w.referee.mu.Unlock()
	for n := range planted + 2*parallelWorkers*parallelCalls {
		known[fmt.Sprint("found-", n)] = true
	}
	return known
}

// container is the life of a container on an image that others may take away. Nobody else knows the names of its layers.
func (w *worker) container() {
	w.own++
	name, parent := fmt.Sprintf("own-%d-%d", w.number, w.own), w.name()
	as := name + "-committed"
	err := w.use("be a parent", func() error { return w.store.Create(w.ctx, name, parent, store.CreateOptions{}) }, parent)
	w.expect("create container", err)
	if err != nil {
		return
	}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"run", func() error { return w.run(name) }},
		{"diff", func() error { return w.store.Diff(w.ctx, name, "", io.Discard) }},
		{"commit", func() error { return w.store.Commit(w.ctx, name, as, store.CommitOptions{}) }},
		{"create child", func() error { return w.store.Create(w.ctx, name, as, store.CreateOptions{}) }},
		{"run child", func() error { return w.run(name) }},
		{"remove child", func() error { return w.store.Remove(w.ctx, name) }},
		{"stat", func() error { _, err := w.store.Stat(w.ctx, as); return err }},
		{"remove", func() error { return w.store.Remove(w.ctx, as) }},
	} {
		if err := step.do(); err != nil {
			w.t.Errorf("%s container %s: %v", step.what, name, err)
			return
		}
	}
}

// run mounts a container and writes to it.
func (w *worker) run(name string) error {
	dir, err := w.store.Mount(w.ctx, name, store.MountOptions{})
	if err != nil {
		return err
	}
	mounted, err := loopfs.MountsBelow(dir)
	if err != nil || len(mounted) != 1 {
		return errors.Join(err, fmt.Errorf("%s is mounted %d times", dir, len(mounted)))
	}
	if err := os.WriteFile(filepath.Join(dir, "written"), []byte(name), 0o644); err != nil {
		return err
	}
	if err := w.store.Unmount(w.ctx, name); err != nil {
		return err
	}
	mounted, err = loopfs.MountsBelow(dir)
	if err != nil || len(mounted) != 0 {
		return errors.Join(err, fmt.Errorf("%s is still mounted", dir))
	}
	return nil
}
