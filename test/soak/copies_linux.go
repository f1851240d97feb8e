package main

import (
	"context"

	"strata/backend"
	"strata/backend/store"
)

// cloneOptions are those of a clone: none.
func cloneOptions() store.CreateOptions { return store.CreateOptions{} }

// mapped is the map of a user namespace.
func mapped() *backend.IDMap {
	ids := []backend.IDRange{{Container: 0, Host: 100000, Size: 65536}}
	return &backend.IDMap{UIDs: ids, GIDs: ids}
}

// clone copies a layer. Both have the same parent, and the template is not written to any more.
func (c *docker) clone(ctx context.Context) {
	name := choose(c.rnd, c.ledger.free(c.prefix))
	from := choose(c.rnd, c.ledger.there(c.prefix, func(_ string, e entry) bool {
		return e.readable() && !e.is().orphan && !e.mayBeMounted()
	}))
	if name == "" || from == "" {
		return
	}
	c.ledger.fix(from)
	e, _ := c.ledger.entry(from)
	p := &promise{parent: e.is().parent, tree: e.is().tree}
	c.ledger.begin(name, p)
	if err := c.call(ctx, "clone", func(ctx context.Context) error {
		return c.d.to().control.Clone(ctx, name, from, cloneOptions())
	}); err == nil {
		c.ledger.settle(name, p)
	}
}

// remap changes how a layer's owners are stored. It shows the same, to those who look through its map.
func (c *docker) remap(ctx context.Context) {
	name := c.writable(false)
	if name == "" || len(c.ledger.children(name)) > 0 {
		return
	}
	e, _ := c.ledger.entry(name)
	p := *e.is()
	p.mapped = true
	c.ledger.begin(name, &p)
	if err := c.call(ctx, "idmap", func(ctx context.Context) error {
		return c.d.to().control.SetIDMap(ctx, name, mapped())
	}); err == nil {
		c.ledger.settle(name, &p)
	}
}
