package store_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"strata/backend"
	"strata/backend/backendtest"
	"strata/backend/internal/loopfs"
	"strata/backend/internal/tree"
)

// referee holds a store to what the contract of backends promises them, whatever backend it is. It outlives a store that is
// opened again, as a disk does.
type referee struct {
	t        *testing.T
	root     string // of the store
	mu       sync.Mutex
	writers  map[string]string // what is being done to a layer
	readers  map[string]int
	removed  map[string]bool   // IDs that are used up
	foreign  map[string]string // foundlings that nobody has adopted, and their parents
	planted  int
	children map[string][]string // parents by layer, while the layer has data
}

func newReferee(t *testing.T, root string) *referee {
	return &referee{
		t: t, root: root, writers: map[string]string{}, readers: map[string]int{}, removed: map[string]bool{}, foreign: map[string]string{},
		children: map[string][]string{},
	}
}

// dawdle widens the windows in which something else may happen.
func dawdle() error {
	if rand.IntN(3) == 0 {
		time.Sleep(time.Duration(rand.IntN(1500)) * time.Microsecond)
	}
	return nil
}

// limiting leaves what a layer holds as it is.
const limiting = "limiting"

// change notes that a layer is being changed while others are read, and complains if somebody changes one of them. It returns
// what ends the change.
func (r *referee) change(what, id string, reads ...string) (end func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if other := r.writers[id]; other != "" {
		r.t.Errorf("%s of layer %s during its %s", what, id, other)
	}
	if r.readers[id] > 0 && what != limiting {
		r.t.Errorf("%s of layer %s while another one is made from it", what, id)
	}
	for _, read := range reads {
		if other := r.writers[read]; other != "" && other != limiting {
			r.t.Errorf("%s of layer %s from layer %s during the %s of that", what, id, read, other)
		}
		if r.removed[read] {
			r.t.Errorf("%s of layer %s from layer %s, which was removed", what, id, read)
		}
		r.readers[read]++
	}
	if r.removed[id] && what != "removal" {
		r.t.Errorf("%s of layer %s, which was removed", what, id)
	}
	r.writers[id] = what
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.writers, id)
		for _, read := range reads {
			r.readers[read]--
		}
	}
}

// born notes what a layer is made of.
func (r *referee) born(id string, parents []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.children[id] = parents
}

// bury notes that a layer is gone, and complains if it is mounted or another one needs it.
func (r *referee) bury(id string) {
	mounts, err := loopfs.MountsBelow(r.root)
	if err != nil {
		r.t.Errorf("list mounts: %v", err)
	}
	for _, m := range mounts {
		if filepath.Base(m) == id {
			r.t.Errorf("layer %s is removed while it is mounted on %s", id, m)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.removed[id] = true
	delete(r.children, id)
	for child, parents := range r.children {
		if slices.Contains(parents, id) {
			r.t.Errorf("layer %s is removed before its child %s", id, child)
		}
	}
}

// plain is the backend with three methods under a referee.
type plain struct {
	backend.Backend
	referee *referee
	home    string
}

func parentIDs(l backend.Layer) (ids []string) {
	for _, p := range l.Parents {
		ids = append(ids, p.ID)
	}
	return ids
}

func (p *plain) Create(ctx context.Context, l backend.Layer) error {
	defer p.referee.change("making", l.ID, parentIDs(l)...)()
	p.referee.born(l.ID, parentIDs(l))
	return errors.Join(dawdle(), p.Backend.Create(ctx, l), dawdle())
}

func (p *plain) Remove(ctx context.Context, l backend.Layer) error {
	defer p.referee.change("removal", l.ID)()
	p.referee.bury(l.ID)
	return errors.Join(dawdle(), p.Backend.Remove(ctx, l))
}

func (p *plain) Mounts(ctx context.Context, l backend.Layer, o backend.MountOptions) ([]backend.Mount, error) {
	return p.Backend.Mounts(ctx, l, o)
}

// able is a backend with every ability that changes what the store does to its tree of layers. Its layers are directories that
// can be mounted only while they are active.
type able struct {
	plain
	active *backendtest.Active
}

func (a *able) Activate(ctx context.Context, l backend.Layer) error { return a.active.Activate(ctx, l) }

func (a *able) Deactivate(ctx context.Context, l backend.Layer) error {
	return a.active.Deactivate(ctx, l)
}

func (a *able) Seal(_ context.Context, l backend.Layer) error {
	defer a.referee.change("sealing", l.ID)()
	return dawdle()
}

func (a *able) SetLimit(_ context.Context, l backend.Layer, _ int64) error {
	defer a.referee.change(limiting, l.ID)()
	_, err := os.Stat(filepath.Join(a.home, l.ID))
	return errors.Join(dawdle(), err)
}

func (a *able) List(context.Context) ([]string, error) {
	entries, err := os.ReadDir(a.home)
	a.referee.mu.Lock()
	defer a.referee.mu.Unlock()
	var ids []string
	for _, e := range entries {
		if _, foreign := a.referee.foreign[e.Name()]; !foreign {
			ids = append(ids, e.Name())
		}
	}
	return ids, err
}

func (a *able) Clone(ctx context.Context, l, template backend.Layer) error {
	defer a.referee.change("cloning", l.ID, template.ID)()
	a.referee.born(l.ID, parentIDs(l))
	return errors.Join(dawdle(), tree.Copy(ctx, filepath.Join(a.home, template.ID), filepath.Join(a.home, l.ID)), dawdle())
}

// Rebase copies what the parent has and the layer has not: both are whole trees.
func (a *able) Rebase(_ context.Context, l backend.Layer) error {
	defer a.referee.change("rebase", l.ID, parentIDs(l)...)()
	if l.Parent() == "" {
		return dawdle()
	}
	a.referee.born(l.ID, parentIDs(l))
	entries, err := os.ReadDir(filepath.Join(a.home, l.Parent()))
	if err != nil {
		return err
	}
	for _, e := range entries {
		to := filepath.Join(a.home, l.ID, e.Name())
		text, err := os.ReadFile(filepath.Join(a.home, l.Parent(), e.Name()))
		if err != nil {
			return err
		}
		if _, err := os.Lstat(to); err == nil {
			continue
		}
		if err := os.WriteFile(to, text, 0o644); err != nil {
			return err
		}
	}
	return dawdle()
}

// plant makes a layer that another program might have made, on top of another one or of none.
func (r *referee) plant(home string) (id string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	parent := ""
	for id := range maps.Keys(r.foreign) {
		if rand.IntN(2) == 0 {
			parent = id
		}
	}
	r.planted++
	id = fmt.Sprint("found-", r.planted)
	r.foreign[id] = parent
	return id, os.Mkdir(filepath.Join(home, id), 0o755)
}

func (a *able) Adoptable(context.Context) (list []backend.Foundling, err error) {
	a.referee.mu.Lock()
	defer a.referee.mu.Unlock()
	for id, parent := range a.referee.foreign {
		if a.referee.removed[parent] { // its maker would have removed it, too
			delete(a.referee.foreign, id)
			if err := os.Remove(filepath.Join(a.home, id)); err != nil {
				return nil, err
			}
			continue
		}
		list = append(list, backend.Foundling{ID: id, Parent: parent})
	}
	number := func(id string) string { return fmt.Sprintf("%010s", strings.TrimPrefix(id, "found-")) }
	slices.SortFunc(list, func(a, b backend.Foundling) int { return strings.Compare(number(a.ID), number(b.ID)) })
	return list, dawdle()
}

func (a *able) Adopt(_ context.Context, l backend.Layer) error {
	defer a.referee.change("adoption", l.ID)()
	if _, err := os.Stat(filepath.Join(a.home, l.ID)); err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	a.referee.born(l.ID, parentIDs(l))
	a.referee.mu.Lock()
	defer a.referee.mu.Unlock()
	delete(a.referee.foreign, l.ID)
	return nil
}

// placing is able, and tells where its layers lie: the store reads and fills them without a mount.
type placing struct{ able }

func (p *placing) Place(_ context.Context, l backend.Layer) (backend.Place, error) {
	dir := filepath.Join(p.home, l.ID)
	_, err := os.Stat(dir)
	return backend.Place{Dir: dir}, err
}

// newPlacing returns a constructor for store.Config.
func (r *referee) newPlacing(ctx context.Context, env backend.Env) (backend.Backend, error) {
	b, err := r.newAble(ctx, env)
	if err != nil {
		return nil, err
	}
	return &placing{*b.(*able)}, nil
}

// newPlain returns a constructor for store.Config.
func (r *referee) newPlain(ctx context.Context, env backend.Env) (backend.Backend, error) {
	b, err := backendtest.NewDir(ctx, env)
	return &plain{Backend: b, referee: r, home: env.Home}, err
}

// newAble returns a constructor for store.Config.
func (r *referee) newAble(ctx context.Context, env backend.Env) (backend.Backend, error) {
	b, err := backendtest.NewActive(ctx, env)
	if err != nil {
		return nil, err
	}
	return &able{plain: plain{Backend: b, referee: r, home: env.Home}, active: b.(*backendtest.Active)}, nil
}
