package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"strata/test/e2e/engine"
)

// benchScale measures the plugin over its socket on one store that gets more and more layers.
func benchScale(ctx context.Context, o options, w *workloads, t *table) (err error) {
	b := &scaleBench{driverBench: driverBench{w: w, t: t, options: flags(o.options)}}
	if b.strata, err = binary(o.plugin); err != nil {
		return err
	}
	m, err := engine.Boot(ctx, engine.Config{FS: o.fs})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	have := 0
	for _, n := range []int{0, 300, 1000} {
		if o.quick {
			n /= 10
		}
		if err := b.grow(ctx, m, have, n); err != nil {
			return fmt.Errorf("make %d layers: %w", n-have, err)
		}
		have = n
		b.name = fmt.Sprintf("%d layers", n)
		progress("measuring with %s", b.name)
		for range repeats {
			if err := b.scale(ctx, m); err != nil {
				return fmt.Errorf("%s: %w", b.name, err)
			}
		}
	}
	return nil
}

// scaleBench is a store in which all layers are children of one.
type scaleBench struct {
	driverBench
	base string
}

// grow adds children to the base, of which there are have.
func (b *scaleBench) grow(ctx context.Context, m *engine.Machine, have, want int) error {
	stop, err := b.serve(ctx, m)
	if err != nil {
		return err
	}
	if err := b.init(ctx); err != nil {
		return err
	}
	if b.base == "" {
		b.base = b.id()
		// Removed again: the first child is what makes the base one.
		first := b.id()
		if err := errors.Join(b.create(ctx, b.base, ""), b.create(ctx, first, b.base), b.remove(ctx, first)); err != nil {
			return err
		}
	}
	progress("making %d layers", want-have)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i := have; i < want; i++ {
		id := b.id()
		g.Go(func() error { return b.create(gctx, id, b.base) })
	}
	return errors.Join(g.Wait(), stop())
}

func (b *scaleBench) create(ctx context.Context, id, parent string) error {
	return b.post(ctx, "CreateReadWrite", map[string]any{"ID": id, "Parent": parent}, nil)
}

func (b *scaleBench) remove(ctx context.Context, id string) error {
	return b.post(ctx, "Remove", map[string]any{"ID": id}, nil)
}

// scale measures a plugin that is started anew. To Remove belongs the deletion that goes on behind it, which is seen to
// be over by asking for the status.
func (b *scaleBench) scale(ctx context.Context, m *engine.Machine) error {
	stop, err := b.serve(ctx, m)
	if err != nil {
		return err
	}
	id := b.id()
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"Init", func() error { return b.init(ctx) }},
		{"Status", func() error { return b.post(ctx, "Status", nil, nil) }},
		{"Create", func() error { return b.create(ctx, id, b.base) }},
		{"Get", func() error { _, err := b.get(ctx, id); return err }},
		{"Put", func() error { return b.post(ctx, "Put", map[string]any{"ID": id}, nil) }},
		{"Remove", func() error { return b.remove(ctx, id) }},
		{"the deletion behind it", func() error { return b.deleted(ctx) }},
	} {
		if err := timeAs(b.t, step.name, b.name, step.do); err != nil {
			return errors.Join(err, stop())
		}
	}
	return stop()
}

// deleted waits until nothing is being deleted.
func (b *scaleBench) deleted(ctx context.Context) error {
	for range 600 {
		var info struct{ Deleting int }
		if err := b.api.JSON(ctx, http.MethodGet, "/strata/v1/info", nil, &info); err != nil || info.Deleting == 0 {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return errors.New("still deleting")
}
