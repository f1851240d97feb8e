package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/url"
	"slices"

	"golang.org/x/sync/errgroup"

	"strata/backend/store"
	"strata/test/e2e/engine"
)

// verifiers is how many layers are read at once.
const verifiers = 3

// verify holds the store to the ledger, while the clients are paused, and makes the ledger certain again. killed tells that the
// program was killed before.
func (s *soaker) verify(ctx context.Context, killed bool) {
	var list []store.Info
	if err := s.call(ctx, "ls", func(ctx context.Context) (err error) {
		list, err = s.d.to().control.List(ctx)
		return err
	}); err != nil {
		return
	}
	there := map[string]store.Info{}
	for _, i := range list {
		if _, twice := there[i.Name]; twice {
			s.report.lose(lossBack, "two layers are called %s", i.Name)
		}
		there[i.Name] = i
		if _, known := s.ledger.entry(i.Name); !known && !isRival(i.Name) && !s.rotten.concerns(i.Name, i.ID) {
			s.report.lose(lossBack, "layer %s, which nobody made", i.Name)
		}
	}
	s.verifyNames(there)
	for _, name := range rivals() {
		if there[name].State == store.StateReady && !s.full.Load() {
			_, _ = s.export(ctx, name) // it is in the report
		}
	}
	v := verifier{soaker: s, there: there, killed: killed}
	group := errgroup.Group{}
	group.SetLimit(verifiers)
	for _, name := range s.ledger.all() {
		group.Go(func() error {
			v.layer(ctx, name)
			return nil
		})
	}
	_ = group.Wait() // none of them fails: see the report
	s.report.count("layers verified", len(there))
}

// verifyNames: a layer that was being renamed has one of the two names.
func (s *soaker) verifyNames(there map[string]store.Info) {
	for _, name := range s.ledger.all() {
		e, _ := s.ledger.entry(name)
		if e.becomes == "" {
			continue
		}
		_, before := there[name]
		_, after := there[e.becomes]
		if before == after {
			s.report.lose(lossGone, "layer %s was being renamed to %s: there are %v, %v", name, e.becomes, before, after)
		}
	}
}

// verifier compares layers with the ledger.
type verifier struct {
	*soaker
	there  map[string]store.Info
	killed bool
}

// layer compares what a name means with what it may mean, and settles it.
func (v *verifier) layer(ctx context.Context, name string) {
	e, _ := v.ledger.entry(name)
	i, present := v.there[name]
	if !present {
		if !e.mayBe(func(p *promise) bool { return p == nil || p.half }) { // what is half goes when the store opens
			v.report.lose(lossGone, "layer %s", name)
		}
		v.ledger.settle(name, nil)
		return
	}
	var wrong string
	for _, p := range slices.Backward(e.may) {
		if p == nil {
			continue
		}
		if wrong = v.compareWith(ctx, i, *p); wrong == "" {
			v.ledger.settle(name, p)
			v.mounts(e, i)
			return
		}
	}
	switch {
	case wrong == "":
		v.report.lose(lossBack, "layer %s was removed, or never made: %+v", name, i)
	case v.full.Load():
		return // to look at some takes room
	default:
		v.report.lose(lossWrong, "layer %s: %s", name, wrong)
	}
	v.ledger.settle(name, &promise{parent: i.Parent, label: i.Labels[labelSoak], half: i.State != store.StateReady, fixed: i.Sealed})
}

// mounts compares how often a layer is mounted.
func (v *verifier) mounts(e entry, i store.Info) {
	switch {
	case slices.Contains(e.mounts, i.Mounts):
	case v.killed && i.Mounts == 1:
		v.report.count("mounts that a kill left", 1) // the program was reading the layer
	default:
		v.report.lose(lossWrong, "layer %s is mounted %d times, want one of %v", i.Name, i.Mounts, e.mounts)
	}
	v.ledger.mounted(i.Name, i.Mounts)
}

// compareWith says in what a layer is not what was promised, "" if it is that.
func (v *verifier) compareWith(ctx context.Context, i store.Info, p promise) string {
	half := i.State != store.StateReady
	switch {
	case half != p.half:
		return fmt.Sprintf("it is %s", i.State)
	case half:
		return ""
	case !p.orphan && i.Parent != p.parent:
		return fmt.Sprintf("its parent is %q, want %q", i.Parent, p.parent)
	case i.Labels[labelSoak] != p.label:
		return fmt.Sprintf("its label is %q, want %q", i.Labels[labelSoak], p.label)
	}
	if p.digest != "" && !p.orphan {
		sum := sha256.New()
		if err := v.call(ctx, "diff", func(ctx context.Context) error {
			return v.d.to().control.Diff(ctx, i.Name, i.Parent, sum)
		}); err != nil {
			return err.Error()
		}
		if got := fmt.Sprintf("%x", sum.Sum(nil)); got != p.digest {
			return fmt.Sprintf("its diff has digest %s, want %s", got, p.digest)
		}
	}
	if p.tree == nil {
		return ""
	}
	got, err := v.export(ctx, i.Name)
	if err != nil {
		return err.Error()
	}
	return difference(p.tree, got)
}

// export reads what a layer shows.
func (s *soaker) export(ctx context.Context, name string) (tree engine.Manifest, err error) {
	err = s.call(ctx, "export", func(ctx context.Context) error {
		path := "/strata/v1/layers/" + url.PathEscape(name) + "/export"
		return s.d.to().docker.Call(ctx, "GET", path, "", nil, func(r io.Reader) (err error) {
			tree, err = engine.ReadManifest(r)
			return err
		})
	})
	return tree, err
}

// digest returns the digest of a layer's diff.
func (s *soaker) digest(ctx context.Context, name, parent string) (string, error) {
	var text bytes.Buffer
	err := s.d.to().control.Diff(ctx, name, parent, &text)
	return fmt.Sprintf("%x", sha256.Sum256(text.Bytes())), err
}
