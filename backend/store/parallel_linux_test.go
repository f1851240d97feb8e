package store_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/backendtest"
	"strata/backend/internal/failpoint"
	"strata/backend/internal/loopfs"
	"strata/backend/store"
)

// parallelRounds is how long TestParallelModel looks for trouble. A thousand take some ten minutes under the race detector.
var parallelRounds = flag.Int("parallel.rounds", 8, "rounds of TestParallelModel for each kind of store")

const (
	parallelWorkers = 8
	parallelCalls   = 60 // of a worker in a round
)

// newBackend is a constructor for store.Config.
type newBackend = func(context.Context, backend.Env) (backend.Backend, error)

// TestParallelModel plays random calls on few names from many goroutines, and after each round, and again after the store was
// opened anew, holds the store to what lies on disk, and the answers to some order of the calls.
func TestParallelModel(t *testing.T) {
	for _, tc := range []struct {
		name    string
		backend func(*referee) newBackend
		able    bool
		exact   bool
	}{
		{"three methods", func(r *referee) newBackend { return r.newPlain }, false, true},
		{"every ability", func(r *referee) newBackend { return r.newAble }, true, true},
		{"every ability, inexact", func(r *referee) newBackend { return r.newAble }, true, false},
		{"without mounts", func(r *referee) newBackend { return r.newPlacing }, true, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := loopfs.New(t, "tmpfs", 1<<30, "")
			ignored := goleak.IgnoreCurrent()
			before := backendtest.NewLedger(t, dir)
			defer slowDown()()
			p := newParallel(t, filepath.Join(dir, "store"), tc.backend, tc.able, tc.exact)
			for round := range *parallelRounds {
				p.round()
				if t.Failed() {
					t.Fatalf("in round %d", round)
				}
			}
			p.finish()
			before.Check(t)
			assert.NilError(t, goleak.Find(ignored))
		})
	}
}

// slowDown makes the store dawdle where others may come between.
func slowDown() (undo func()) {
	var undos []func()
	for _, name := range []string{
		"store.create.intended", "store.create.filled", "store.create.named", "store.seal.sealed", "store.record.written",
		"store.apply.begun", "store.apply.unpacked", "store.commit.rebased", "store.commit.recorded", "store.mount.mounted",
		"store.remove.unmounted", "store.remove.recorded", "store.remove.deleted", "store.adopt.recorded",
	} {
		undos = append(undos, failpoint.Arm(name, dawdle))
	}
	return func() {
		for _, undo := range undos {
			undo()
		}
	}
}

// parallel is a store that many use at once.
type parallel struct {
	t         *testing.T
	cfg       store.Config
	able      bool
	referee   *referee
	store     *store.Store
	history   *history
	collected atomic.Int32 // by GC

	mu     sync.Mutex
	spoilt map[string]bool // names of layers that may have been left unfinished in this round
}

func newParallel(t *testing.T, root string, b func(*referee) newBackend, able, exact bool) *parallel {
	p := &parallel{t: t, able: able, referee: newReferee(t, root)}
	p.cfg = store.Config{Root: root, Backend: "referee", New: b(p.referee), ExactDiffs: exact}
	p.open()
	t.Cleanup(p.clear)
	return p
}

// clear takes down what is mounted after a failure.
func (p *parallel) clear() {
	if p.store == nil {
		return
	}
	assert.Check(p.t, p.store.Close(context.Background()))
	mounts, err := loopfs.MountsBelow(p.cfg.Root)
	assert.Check(p.t, err)
	for _, m := range slices.Backward(mounts) {
		assert.Check(p.t, unix.Unmount(m, unix.MNT_DETACH))
	}
}

func (p *parallel) open() {
	s, err := store.Open(p.t.Context(), p.cfg)
	assert.NilError(p.t, err)
	p.store = s
}

// round lets everybody loose, checks, opens the store anew, and checks again.
func (p *parallel) round() {
	p.history, p.spoilt = newHistory(), map[string]bool{}
	p.note(true)
	var group sync.WaitGroup
	for i := range parallelWorkers {
		w := &worker{parallel: p, ctx: p.t.Context(), number: i}
		group.Go(func() {
			for range parallelCalls {
				w.play()
			}
		})
	}
	group.Wait()
	p.note(false)
	p.history.judge(p.t)
	p.checkAtRest()
	p.reopen()
	p.checkAtRest()
}

// note tells the history which names there are while nobody makes or takes one, at the start that somebody has.
func (p *parallel) note(start bool) {
	infos, err := p.store.List(p.t.Context())
	assert.NilError(p.t, err)
	there := map[string]string{}
	for _, i := range infos {
		there[i.Name] = i.ID
	}
	now := p.history.now()
	for _, name := range sharedNames {
		e := event{aspect: misses, begin: now, end: now, what: "rest"}
		if id, ok := there[name]; ok {
			e.aspect, e.id = finds, id
		}
		p.history.add(name, e)
		if !start {
			continue
		}
		e.aspect = map[aspect]aspect{finds: makes, misses: takes}[e.aspect]
		p.history.add(name, e)
	}
}

// reopen opens the store anew: the same layers are there, but those that somebody has not filled.
func (p *parallel) reopen() {
	before, err := p.store.List(p.t.Context())
	assert.NilError(p.t, err)
	assert.NilError(p.t, p.store.Close(p.t.Context()))
	p.open()
	after, err := p.store.List(p.t.Context())
	assert.NilError(p.t, err)
	now := map[string]store.Info{}
	for _, i := range after {
		now[i.ID] = i
	}
	for _, i := range before {
		again, there := now[i.ID]
		delete(now, i.ID)
		if i.State != store.StateReady {
			continue
		}
		if !there {
			p.t.Errorf("layer %q (%s) is lost", i.Name, i.ID)
			continue
		}
		assert.Check(p.t, again.Name == i.Name && again.Sealed == i.Sealed && again.Mounts == min(i.Mounts, 1), "was %+v, is %+v", i, again)
	}
	for _, i := range now {
		p.t.Errorf("layer %q (%s) came back", i.Name, i.ID)
	}
}

// finish removes everything; nothing stays.
func (p *parallel) finish() {
	ctx := p.t.Context()
	for {
		infos, err := p.store.List(ctx)
		assert.NilError(p.t, err)
		if len(infos) == 0 {
			break
		}
		removed := 0
		for _, i := range infos {
			if i.Children == 0 {
				assert.NilError(p.t, p.store.Remove(ctx, i.Name))
				removed++
			}
		}
		assert.Assert(p.t, removed > 0, "no layer can be removed: %+v", infos)
	}
	p.checkAtRest()
	assert.Check(p.t, p.collected.Load() > 0, "gc has collected nothing")
	assert.NilError(p.t, p.store.Close(ctx))
	p.store = nil
}

// sharedNames are few, so that everybody meets.
var sharedNames = []string{"a", "b", "c", "d", "e", "f"}

// worker is one client.
type worker struct {
	*parallel
	ctx    context.Context //nolint:containedctx // every call of a round has it
	number int
	own    int // layers of its own that it has made
}

func (w *worker) name() string { return sharedNames[rand.IntN(len(sharedNames))] }

// two returns different names.
func (w *worker) two() (string, string) {
	i, j := rand.IntN(len(sharedNames)), rand.IntN(len(sharedNames)-1)
	if j >= i {
		j++
	}
	return sharedNames[i], sharedNames[j]
}

// calls are what workers do, as often as their weight says.
var calls = []struct {
	weight int
	able   bool // only where the backend has the ability
	call   func(*worker)
}{
	{weight: 12, call: (*worker).create},
	{weight: 8, call: (*worker).createChild},
	{weight: 5, call: (*worker).clone},
	{weight: 5, call: (*worker).link},
	{weight: 8, call: (*worker).commit},
	{weight: 8, call: (*worker).setIDMap, able: true},
	{weight: 4, call: (*worker).setLimit, able: true},
	{weight: 5, call: (*worker).updateLabels},
	{weight: 5, call: (*worker).mount},
	{weight: 5, call: (*worker).unmount},
	{weight: 4, call: (*worker).mounts},
	{weight: 8, call: (*worker).apply},
	{weight: 4, call: (*worker).unpack},
	{weight: 8, call: (*worker).diff},
	{weight: 3, call: (*worker).changes},
	{weight: 3, call: (*worker).usage},
	{weight: 10, call: (*worker).remove},
	{weight: 3, call: (*worker).discard},
	{weight: 8, call: (*worker).stat},
	{weight: 2, call: (*worker).look},
	{weight: 4, call: (*worker).adopt, able: true},
	{weight: 6, call: (*worker).container},
	{weight: 1, call: (*worker).setSync},
	{weight: 3, call: (*worker).check},
	{weight: 3, call: (*worker).gc},
}

func (w *worker) play() {
	all := 0
	for _, c := range calls {
		all += c.weight
	}
	n := rand.IntN(all)
	for _, c := range calls {
		if n -= c.weight; n < 0 {
			if !c.able || w.able {
				c.call(w)
			}
			return
		}
	}
}

// expect complains about an error that no use of the API explains.
func (w *worker) expect(what string, err error, more ...func(error) bool) {
	for _, is := range append(more, errdefs.IsNotFound, errdefs.IsAlreadyExists, errdefs.IsFailedPrecondition, errdefs.IsAborted) {
		if err == nil || is(err) {
			return
		}
	}
	w.t.Errorf("%s: %v", what, err)
}

// missing reports whether an error says that there is no layer of that name.
func missing(err error, name string) bool {
	return errdefs.IsNotFound(err) && strings.Contains(err.Error(), fmt.Sprintf("layer %q: not found", name))
}

// use plays a call that looks layers up by names.
func (w *worker) use(what string, call func() error, names ...string) error {
	begin := w.history.now()
	err := call()
	end := w.history.now()
	known := err == nil
	for _, name := range names {
		e := event{begin: begin, end: end, what: what, aspect: finds}
		switch {
		case err == nil:
			w.history.add(name, e)
		case missing(err, name):
			known, e.aspect = true, misses
			w.history.add(name, e)
		}
	}
	if errdefs.IsNotFound(err) && !known {
		w.t.Errorf("%s: it does not say what is not found: %v", what, err)
	}
	return err
}

// make plays a call that gives a layer a name.
func (w *worker) make(what, name string, call func() error) error {
	begin := w.history.now()
	err := call()
	e := event{begin: begin, end: w.history.now(), what: what, aspect: makes, failed: err != nil}
	w.history.add(name, e)
	if errdefs.IsAlreadyExists(err) {
		e.aspect, e.failed = finds, false
		w.history.add(name, e)
	}
	return err
}

// take plays a call that takes a name from a layer.
func (w *worker) take(what, name string, call func() error) error {
	begin := w.history.now()
	err := call()
	e := event{begin: begin, end: w.history.now(), what: what, aspect: takes, failed: err != nil}
	if !errdefs.IsFailedPrecondition(err) && !errdefs.IsNotFound(err) {
		w.history.add(name, e)
	}
	return err
}

func chance(percent int) bool { return rand.IntN(100) < percent }

func (w *worker) options() store.CreateOptions {
	o := store.CreateOptions{Labels: map[string]string{"by": fmt.Sprint(w.number)}, Draft: chance(30)}
	if w.able && chance(20) {
		o.Limit = 1 << 20
	}
	return o
}

func (w *worker) create() {
	name, o := w.name(), w.options()
	o.Detached = w.able && chance(50)
	w.expect("create", w.make("create", name, func() error { return w.store.Create(w.ctx, name, "", o) }))
}

func (w *worker) createChild() {
	name, parent := w.two()
	w.expect("create", w.make("create", name, func() error {
		return w.use("be a parent", func() error { return w.store.Create(w.ctx, name, parent, w.options()) }, parent)
	}))
}

func (w *worker) clone() {
	name, template := w.two()
	w.expect("clone", w.make("clone", name, func() error {
		return w.use("be cloned", func() error { return w.store.Clone(w.ctx, name, template, w.options()) }, template)
	}))
}

func (w *worker) link() {
	name, target := w.two()
	w.expect("link", w.make("link", name, func() error {
		return w.use("be linked", func() error { return w.store.Link(w.ctx, name, target, nil) }, target)
	}))
}

func (w *worker) commit() {
	name, as := w.two()
	o := store.CommitOptions{Labels: map[string]string{"committed": name}}
	if w.able && chance(60) {
		o.Parent = w.name() // which may be one of the two
	}
	w.expect("commit", w.make("commit", as, func() error {
		return w.take("commit", name, func() error { return w.store.Commit(w.ctx, name, as, o) })
	}), errdefs.IsInvalidArgument, errdefs.IsNotImplemented)
}

var maps1 = &backend.IDMap{UIDs: []backend.IDRange{{Host: 100000, Size: 65536}}, GIDs: []backend.IDRange{{Host: 100000, Size: 65536}}}

func (w *worker) setIDMap() {
	name := w.name()
	var m *backend.IDMap
	if chance(50) {
		m = maps1
	}
	w.expect("set ID map", w.use("set ID map", func() error { return w.store.SetIDMap(w.ctx, name, m) }, name))
}

func (w *worker) setLimit() {
	name := w.name()
	w.expect("set limit", w.use("set limit", func() error { return w.store.SetLimit(w.ctx, name, rand.Int64N(1<<20)) }, name))
}

func (w *worker) updateLabels() {
	name := w.name()
	w.expect("update labels", w.use("update labels", func() error {
		_, err := w.store.UpdateLabels(w.ctx, name, func(labels map[string]string) error {
			labels["by"], labels["n"] = fmt.Sprint(w.number), fmt.Sprint(rand.IntN(1000))
			return dawdle()
		})
		return err
	}, name))
}

func (w *worker) mount() {
	name := w.name()
	w.expect("mount", w.use("mount", func() error { _, err := w.store.Mount(w.ctx, name, store.MountOptions{}); return err }, name))
}

func (w *worker) unmount() {
	w.expect("unmount", w.store.Unmount(w.ctx, w.name()))
}

func (w *worker) mounts() {
	name := w.name()
	o := store.MountOptions{ReadOnly: chance(30), Describe: chance(30)}
	w.expect("mounts", w.use("mounts", func() error { _, err := w.store.Mounts(w.ctx, name, o); return err }, name))
}

// filesInTar is what a layer holds if it was filled: all of them or none.
const filesInTar = 10

func layerTar(cut bool) io.Reader {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := range filesInTar {
		_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprint("file", i), Mode: 0o644, Size: 5}) // into memory
		_, _ = io.WriteString(w, "hello")
	}
	_ = w.Close()
	if cut {
		b.Truncate(b.Len() / 2)
	}
	return &lazyReader{&b}
}

// lazyReader is a client with a slow line.
type lazyReader struct{ r io.Reader }

func (l *lazyReader) Read(b []byte) (int, error) {
	return l.r.Read(b[:min(len(b), 700)])
}

func (w *worker) apply() {
	w.fill("apply", func(name string, r io.Reader) error { _, err := w.store.Apply(w.ctx, name, r); return err })
}

func (w *worker) unpack() {
	w.fill("unpack", func(name string, r io.Reader) error { _, err := w.store.Unpack(w.ctx, name, r); return err })
}

func (w *worker) fill(what string, call func(string, io.Reader) error) {
	name := w.name()
	cut := chance(10)
	if cut {
		w.mu.Lock()
		w.spoilt[name] = true
		w.mu.Unlock()
	}
	w.expect(what, w.use(what, func() error { return call(name, layerTar(cut)) }, name), func(err error) bool { return cut && errdefs.IsDataLoss(err) })
}

func (w *worker) diff() {
	name, parent := w.two()
	if chance(60) {
		parent = ""
	}
	var b bytes.Buffer
	names := []string{name}
	if parent != "" {
		names = append(names, parent)
	}
	err := w.use("diff", func() error { return w.store.Diff(w.ctx, name, parent, &b) }, names...)
	w.expect("diff", err)
	if err != nil {
		return
	}
	files := 0
	for r := tar.NewReader(&b); ; files++ {
		if _, err := r.Next(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			w.t.Errorf("diff of %q: %v", name, err)
			return
		}
	}
	if files != 0 && files != filesInTar {
		w.t.Errorf("diff of %q has %d files", name, files)
	}
}

func (w *worker) changes() {
	name, parent := w.two()
	var changes []backend.Change
	err := w.use("changes", func() (err error) {
		changes, err = backendtest.Collect(w.store.Changes(w.ctx, name, parent))
		return err
	}, name, parent)
	w.expect("changes", err)
	if err == nil && len(changes) != 0 && len(changes) != filesInTar {
		w.t.Errorf("changes of %q from %q: %v", name, parent, changes)
	}
}

func (w *worker) usage() {
	name := w.name()
	w.expect("usage", w.use("usage", func() error { _, err := w.store.Usage(w.ctx, name); return err }, name))
}

func (w *worker) remove() {
	name := w.name()
	w.expect("remove", w.take("remove", name, func() error { return w.store.Remove(w.ctx, name) }))
}

func (w *worker) discard() {
	name := w.name()
	w.expect("discard", w.take("discard", name, func() error { return w.store.Discard(w.ctx, name) }))
}

func (w *worker) stat() {
	name := w.name()
	begin := w.history.now()
	info, err := w.store.Stat(w.ctx, name)
	e := event{begin: begin, end: w.history.now(), aspect: finds, what: "stat", id: info.ID}
	if err != nil {
		e.aspect = misses
	}
	w.history.add(name, e)
	w.expect("stat", err)
	if err != nil {
		return
	}
	if info.Name != name {
		w.t.Errorf("%q is called %q", name, info.Name)
	}
	again, err := w.store.StatID(w.ctx, info.ID)
	w.expect("stat by ID", err)
	if err == nil && again.ID != info.ID {
		w.t.Errorf("%s is called %s", info.ID, again.ID)
	}
}

// look plays what looks at everything.
func (w *worker) look() {
	_, err := w.store.List(w.ctx)
	w.expect("list", err)
	_, err = w.store.Info(w.ctx)
	w.expect("info", err)
	_, err = w.store.Leaving(w.ctx)
	w.expect("leaving", err)
	if n := w.store.Damaged(); n > 0 {
		w.t.Errorf("%d layers are damaged", n)
	}
	name := w.name()
	_, err = w.store.Describe(w.ctx, name)
	w.expect("describe", err)
	_, err = w.store.DiffSize(w.ctx, name, "")
	w.expect("diff size", err)
}
