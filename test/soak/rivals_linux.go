package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strata/plugin/control"
	"strata/test/e2e/engine"
	"strata/test/unixhttp"
)

// Names that several clients make, fill, mount, rename and remove at the same time. What they mean at any moment nobody knows; but each means
// one layer at most, which can be looked at and removed.
const (
	prefixRival = "rival-"
	rivalNames  = 4
)

// rival is a client that shares its names with others.
type rival struct {
	*soaker
	rnd *rand.Rand
}

func (s *soaker) newRival(n int) *rival { return &rival{s, s.newRand(7, n)} }

// isRival tells whether a layer is one of those that several clients use.
func isRival(name string) bool { return strings.HasPrefix(name, prefixRival) }

// rivals are all their names.
func rivals() (names []string) {
	for i := range rivalNames {
		names = append(names, fmt.Sprintf("%s%d", prefixRival, i))
	}
	return names
}

func (r *rival) acts() []act {
	return []act{{6, r.create}, {6, r.fill}, {4, r.mount}, {4, r.clone}, {6, r.remove}, {3, r.read}, {2, r.remap}}
}

// try calls the program and takes every answer for right, but none at all.
func (r *rival) try(ctx context.Context, name string, do func(ctx context.Context, c *links) error) {
	_ = r.call(ctx, "rival "+name, func(ctx context.Context) error { // it is in the report
		err := do(ctx, r.d.to())
		var told *control.Error
		if errors.As(err, new(*unixhttp.Refusal)) || errors.As(err, &told) && !errdefs.IsInternal(told) {
			return nil
		}
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
			return nil // a tar is cut off if its layer is removed, whoever sends it
		}
		return err
	})
}

// post tries a method of Docker's protocol.
func (r *rival) post(ctx context.Context, method string, in map[string]any) {
	r.try(ctx, method, func(ctx context.Context, c *links) error {
		return c.docker.JSON(ctx, "POST", "/GraphDriver."+method, in, nil)
	})
}

func (r *rival) name() string { return choose(r.rnd, rivals()) }

func (r *rival) create(ctx context.Context) {
	parent := r.name()
	if r.rnd.IntN(2) == 0 {
		parent = ""
	}
	r.post(ctx, "Create", map[string]any{"ID": r.name(), "Parent": parent})
}

func (r *rival) fill(ctx context.Context) {
	name := r.name()
	ch, err := newChange(r.rnd, engine.Manifest{})
	if err != nil {
		r.report.lose(lossFailed, "%v", err)
		return
	}
	r.try(ctx, "ApplyDiff", func(ctx context.Context, c *links) error {
		body := struct{ io.Reader }{bytes.NewReader(ch.tar)}
		return c.docker.Call(ctx, "POST", "/GraphDriver.ApplyDiff?id="+name+"&parent=", "", body, unixhttp.Drain)
	})
}

func (r *rival) mount(ctx context.Context) {
	name := r.name()
	r.post(ctx, "Get", map[string]any{"ID": name})
	r.post(ctx, "Put", map[string]any{"ID": name})
}

func (r *rival) remove(ctx context.Context) { r.post(ctx, "Remove", map[string]any{"ID": r.name()}) }

func (r *rival) clone(ctx context.Context) {
	r.try(ctx, "clone", func(ctx context.Context, c *links) error {
		return c.control.Clone(ctx, r.name(), r.name(), cloneOptions())
	})
}

func (r *rival) remap(ctx context.Context) {
	r.try(ctx, "idmap", func(ctx context.Context, c *links) error { return c.control.SetIDMap(ctx, r.name(), mapped()) })
}

func (r *rival) read(ctx context.Context) {
	r.try(ctx, "diff", func(ctx context.Context, c *links) error { return c.control.Diff(ctx, r.name(), "", io.Discard) })
}
