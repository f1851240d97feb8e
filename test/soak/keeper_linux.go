package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"strata/backend/store"
	"strata/plugin/control"
	"strata/test/e2e/engine"
)

// prefixOrphan begins the names of layers that the keeper does not tell gc about.
const prefixOrphan = "orphan-"

// keeper checks, repairs and collects all the time. There are several.
type keeper struct {
	*soaker
	rnd *rand.Rand
}

func (s *soaker) newKeeper(n int) *keeper {
	s.ledger.slots(prefixOrphan)
	return &keeper{s, s.newRand(4, n)}
}

// acts are those of every keeper.
func (k *keeper) acts() []act {
	check := func(o store.CheckOptions) func(context.Context) {
		return func(ctx context.Context) { k.check(ctx, o) }
	}
	return []act{
		{6, check(store.CheckOptions{})},
		{3, check(store.CheckOptions{Deep: true})},
		{5, check(store.CheckOptions{Repair: true})},
		{2, check(store.CheckOptions{Deep: true, Repair: true})},
		{3, func(ctx context.Context) { k.collect(ctx, store.GCOptions{}) }},
		{3, func(ctx context.Context) { k.collect(ctx, store.GCOptions{Yes: true}) }},
	}
}

// first are those of the one keeper that knows what the clients know.
func (k *keeper) first() []act {
	return append(k.acts(),
		act{3, func(ctx context.Context) { k.collect(ctx, store.GCOptions{Known: k.known()}) }},
		act{4, func(ctx context.Context) { k.collect(ctx, store.GCOptions{Known: k.known(), Yes: true}) }},
		act{4, k.orphans})
}

// known are all names that clients may use, which is what they would tell gc.
func (s *soaker) known() map[string]bool {
	known := map[string]bool{}
	for _, name := range s.ledger.all() {
		known[name] = true
	}
	for _, name := range rivals() {
		known[name] = true
	}
	for i := range slots {
		delete(known, fmt.Sprintf("%s%02d", prefixOrphan, i))
	}
	return known
}

// check looks for damage. There is none but what was done to layers made for it.
func (s *soaker) check(ctx context.Context, o store.CheckOptions) (found []store.Finding) {
	name := "check"
	if o.Deep {
		name += " deep"
	}
	if o.Repair {
		name += " repair"
	}
	begun := time.Now()
	_ = s.call(ctx, name, func(ctx context.Context) (err error) { // it is in the report
		found, err = s.d.to().control.Check(ctx, o)
		return err
	})
	for _, f := range found {
		s.judge(name, f, begun)
	}
	return found
}

// judge notes a finding that is false, and was at no time since the check has begun.
func (s *soaker) judge(by string, f store.Finding, begun time.Time) {
	s.report.count(fmt.Sprintf("findings, %s", f.Kind), 1)
	e, known := s.ledger.entry(f.Layer)
	half := known && (e.mayBeHalf() || e.half.After(begun))
	switch {
	case s.rotten.concerns(f.Layer, f.Detail):
	case f.Kind == store.FindingUnfinished && (half || isRival(f.Layer) || s.full.Load()):
	default:
		s.report.lose(lossFinding, "%s: %s %s: %s; repaired: %q", by, f.Kind, f.Layer, f.Detail, f.Repaired)
	}
}

// collect collects garbage. There is none but what was made for it.
func (s *soaker) collect(ctx context.Context, o store.GCOptions) (orphans []store.Orphan) {
	name := "gc"
	if o.Known != nil {
		name += " known"
	}
	if o.Yes {
		name += " yes"
	}
	if o.Known != nil && o.Yes {
		for _, orphan := range s.ledger.there(prefixOrphan, anything) {
			s.ledger.begin(orphan, nil)
		}
	}
	_ = s.call(ctx, name, func(ctx context.Context) (err error) { // it is in the report
		orphans, err = s.d.to().control.GC(ctx, o)
		return err
	})
	for _, x := range orphans {
		what := lossFinding
		if x.Removed {
			what = lossRemoved
		}
		switch unknown := strings.HasPrefix(x.Name, prefixOrphan) && o.Known != nil; {
		case unknown && x.Removed:
			s.ledger.settle(x.Name, nil)
		case unknown || s.rotten.concerns(x.Name, x.ID):
		default:
			s.report.lose(what, "%s: %s %s: %s", name, x.Name, x.ID, x.Reason)
		}
	}
	return orphans
}

// orphans makes a layer of which gc is not told, and has it collected.
func (k *keeper) orphans(ctx context.Context) {
	name := choose(k.rnd, k.ledger.free(prefixOrphan))
	if name == "" {
		return
	}
	p := &promise{tree: engine.Manifest{}}
	k.ledger.begin(name, p)
	if err := k.post(ctx, "Create", map[string]any{"ID": name, "Parent": ""}, nil); err != nil {
		return
	}
	k.ledger.settle(name, p)
	named := func(x store.Orphan) bool { return x.Name == name }
	if found := k.collect(ctx, store.GCOptions{Known: k.known()}); !slices.ContainsFunc(found, named) && !k.troubled() {
		k.report.lose(lossMissed, "gc does not list %s, which nobody knows", name)
	}
	stays := func() bool {
		e, _ := k.ledger.entry(name)
		return e.mayBe(func(p *promise) bool { return p != nil })
	}
	for end := time.Now().Add(k.o.patience); stays() && !k.troubled(); time.Sleep(second / 10) { // a check may just read it
		if found := k.collect(ctx, store.GCOptions{Known: k.known(), Yes: true}); !slices.ContainsFunc(found, named) && !k.troubled() {
			k.report.lose(lossMissed, "gc --yes does not tell about %s, which nobody knows", name)
			return
		}
		if time.Now().After(end) {
			k.report.lose(lossMissed, "gc --yes does not remove %s, which nobody knows", name)
			return
		}
	}
}

// troubled tells whether a call may just have failed.
func (s *soaker) troubled() bool { return s.full.Load() || s.d.dying.Load() }

// reader looks at everything, as people and monitoring do.
type reader struct {
	*soaker
	rnd *rand.Rand
}

func (s *soaker) newReader() *reader { return &reader{s, s.newRand(5, 0)} }

func (r *reader) acts() []act {
	one := func(name string, do func(ctx context.Context, c *links) error) act {
		return act{1, func(ctx context.Context) {
			_ = r.call(ctx, name, func(ctx context.Context) error { return do(ctx, r.d.to()) }) // it is in the report
		}}
	}
	get := func(path string) func(ctx context.Context, c *links) error {
		return func(ctx context.Context, c *links) error {
			return c.docker.Call(ctx, "GET", path, "", nil, func(r io.Reader) error {
				_, err := io.Copy(io.Discard, r)
				return err
			})
		}
	}
	return []act{
		one("info", func(ctx context.Context, c *links) error { _, err := c.control.Info(ctx); return err }),
		one("ls", func(ctx context.Context, c *links) error { _, err := c.control.List(ctx); return err }),
		one("leaving", func(ctx context.Context, c *links) error { _, err := c.control.Leaving(ctx); return err }),
		one("options", func(ctx context.Context, c *links) error { _, err := c.control.Options(ctx); return err }),
		one("tree", get("/strata/v1/tree")),
		one("usage", func(ctx context.Context, c *links) error {
			return c.control.EachUsage(ctx, func(control.LayerUsage) error { return nil })
		}),
		one("metrics", get("/metrics")),
		one("Status", func(ctx context.Context, c *links) error {
			return c.docker.JSON(ctx, "POST", "/GraphDriver.Status", map[string]any{}, nil)
		}),
	}
}
