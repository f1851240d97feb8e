package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"strata/plugin/snapshotter"
	"strata/test/e2e/engine"
)

// labelSoak is the label that clients give to snapshots, and change.
const labelSoak = "soak"

// containerd is a client of containerd's protocol. Keys of active snapshots and views begin with "a", names of committed ones with "s".
type containerd struct {
	*soaker
	rnd       *rand.Rand
	keys      string // what begins the keys, as the store calls them
	committed string // what begins the names
}

func (s *soaker) newContainerd(n int) *containerd {
	c := &containerd{
		soaker: s, rnd: s.newRand(2, n),
		keys: fmt.Sprintf("%sa%d-", snapshotter.Prefix, n), committed: fmt.Sprintf("%ss%d-", snapshotter.Prefix, n),
	}
	s.ledger.slots(c.keys)
	s.ledger.slots(c.committed)
	return c
}

func (c *containerd) acts() []act {
	return []act{
		{20, c.prepare}, {15, c.unpack}, {6, c.push}, {15, c.write}, {20, c.commit}, {12, c.view}, {20, c.remove}, {8, c.update}, {6, c.describe}, {3, c.walk}, {4, c.usage},
	}
}

// key is what containerd calls the snapshot.
func key(name string) string { return strings.TrimPrefix(name, snapshotter.Prefix) }

// label makes an option with a new value for the label.
func (c *containerd) label() (value string, opt snapshots.Opt) {
	value = fmt.Sprintf("%x", c.rnd.Uint32())
	return value, snapshots.WithLabels(map[string]string{labelSoak: value})
}

// parent chooses a committed snapshot, or none.
func (c *containerd) parent() (name string, tree engine.Manifest) {
	name = choose(c.rnd, c.ledger.there(c.committed, func(name string, e entry) bool {
		return e.readable() && c.ledger.depth(name) < maxDepth
	}))
	if name == "" || c.rnd.IntN(5) == 0 {
		return "", engine.Manifest{}
	}
	e, _ := c.ledger.entry(name)
	return name, e.may[0].tree
}

// prepare makes an active snapshot, and writes into it.
func (c *containerd) prepare(ctx context.Context) {
	name := choose(c.rnd, c.ledger.free(c.keys))
	if name == "" {
		return
	}
	parent, tree := c.parent()
	value, opt := c.label()
	opts := []snapshots.Opt{opt}
	if c.rnd.IntN(2) == 0 { // as when an image is unpacked
		opts = append(opts, snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotRef: "sha256:" + value, labelSoak: value}))
	}
	if mounts, ok := c.make(ctx, name, &promise{parent: parent, tree: tree, label: value}, opts...); ok {
		c.writeTo(ctx, name, mounts)
	}
}

// make makes an active snapshot.
func (c *containerd) make(ctx context.Context, name string, p *promise, opts ...snapshots.Opt) (mounts []mount.Mount, ok bool) {
	c.ledger.begin(name, p)
	err := c.call(ctx, "Prepare", func(ctx context.Context) (err error) {
		mounts, err = c.d.to().snapshots.Prepare(ctx, key(name), key(p.parent), opts...)
		return err
	})
	if err == nil {
		c.ledger.settle(name, p)
	}
	return mounts, err == nil
}

// active chooses an active snapshot. One that was filled from a tar is not written to.
func (c *containerd) active(filled bool) string {
	return choose(c.rnd, c.ledger.there(c.keys, func(_ string, e entry) bool {
		return e.readable() && !e.is().fixed && (filled || !e.is().whole)
	}))
}

func (c *containerd) write(ctx context.Context) {
	name := c.active(false)
	if name == "" {
		return
	}
	var mounts []mount.Mount
	if err := c.call(ctx, "Mounts", func(ctx context.Context) (err error) {
		mounts, err = c.d.to().snapshots.Mounts(ctx, key(name))
		return err
	}); err == nil {
		c.writeTo(ctx, name, mounts)
	}
}

// writeTo changes an active snapshot as a container does.
func (c *containerd) writeTo(ctx context.Context, name string, mounts []mount.Mount) {
	c.within(ctx, name, mounts, func(dir string) { c.writeInto(name, dir) })
}

// within mounts a snapshot while do looks at it.
func (c *containerd) within(ctx context.Context, name string, mounts []mount.Mount, do func(dir string)) {
	at := path.Join(mountPlace, path.Base(name))
	if len(mounts) != 1 {
		c.report.lose(lossFailed, "%d mounts of snapshot %s", len(mounts), name)
		return
	}
	m := mounts[0]
	err := os.MkdirAll(c.d.m.Path(at), 0o700)
	if err == nil {
		_, err = engine.Output(c.d.m.Command(ctx, "mount", "-t", m.Type, "-o", strings.Join(m.Options, ","), m.Source, at))
	}
	if c.note("mount a snapshot", err); err != nil {
		return
	}
	do(c.d.m.Path(at))
	c.note("unmount a snapshot", c.unmount(context.WithoutCancel(ctx), at))
}

// unmount tries more than once: a process that is being started has copies of our descriptors for a moment, which keep a mount busy.
func (c *containerd) unmount(ctx context.Context, at string) (err error) {
	for try := range 10 {
		time.Sleep(time.Duration(try) * 100 * time.Millisecond)
		if _, err = engine.Output(c.d.m.Command(ctx, "umount", at)); err == nil {
			break
		}
	}
	return err
}

// commit makes an active snapshot a committed one.
func (c *containerd) commit(ctx context.Context) {
	c.commitAs(ctx, c.active(true), choose(c.rnd, c.ledger.free(c.committed)))
}

// commitAs makes an active snapshot a committed one of this name. It does nothing without the one or the other.
func (c *containerd) commitAs(ctx context.Context, from, name string) {
	if from == "" || name == "" {
		return
	}
	value, opt := c.label()
	e, _ := c.ledger.entry(from)
	p := *e.may[0]
	p.fixed, p.label = true, value
	c.ledger.begin(name, &p)
	c.ledger.begin(from, nil)
	c.ledger.renames(from, name)
	if err := c.call(ctx, "Commit", func(ctx context.Context) error {
		return c.d.to().snapshots.Commit(ctx, key(name), key(from), opt)
	}); err != nil {
		return
	}
	c.ledger.settle(name, &p)
	c.ledger.settle(from, nil)
}

// view looks at a committed snapshot.
func (c *containerd) view(ctx context.Context) {
	name := choose(c.rnd, c.ledger.free(c.keys))
	parent := choose(c.rnd, c.ledger.there(c.committed, func(_ string, e entry) bool { return e.readable() }))
	if name == "" || parent == "" {
		return
	}
	mounts, ok := c.viewOf(ctx, name, parent)
	if !ok {
		return
	}
	c.within(ctx, name, mounts, func(dir string) { c.compare(name, dir) })
	if c.rnd.IntN(4) > 0 {
		c.removeSnapshot(ctx, name)
	}
}

// viewOf makes a view.
func (c *containerd) viewOf(ctx context.Context, name, parent string) (mounts []mount.Mount, ok bool) {
	e, _ := c.ledger.entry(parent)
	value, opt := c.label()
	p := &promise{parent: parent, tree: e.may[0].tree, label: value, fixed: true}
	c.ledger.begin(name, p)
	err := c.call(ctx, "View", func(ctx context.Context) (err error) {
		mounts, err = c.d.to().snapshots.View(ctx, key(name), key(parent), opt)
		return err
	})
	if err == nil {
		c.ledger.settle(name, p)
	}
	return mounts, err == nil
}

// remove removes a snapshot without children.
func (c *containerd) remove(ctx context.Context) {
	prefix := []string{c.keys, c.committed, c.committed}[c.rnd.IntN(3)]
	name := choose(c.rnd, c.ledger.there(prefix, anything))
	if name != "" && len(c.ledger.children(name)) == 0 {
		c.removeSnapshot(ctx, name)
	}
}

func (c *containerd) removeSnapshot(ctx context.Context, name string) {
	e, _ := c.ledger.entry(name)
	c.ledger.begin(name, nil)
	if err := c.call(ctx, "snapshot Remove", func(ctx context.Context) error {
		err := c.d.to().snapshots.Remove(ctx, key(name))
		if e.mayBeHalf() && errdefs.IsNotFound(err) {
			return nil // a repair has removed it
		}
		return err
	}); err == nil {
		c.ledger.settle(name, nil)
	}
}

// any chooses a snapshot that is there: what is half may have been removed by a repair.
func (c *containerd) any() string {
	prefix := []string{c.keys, c.committed}[c.rnd.IntN(2)]
	return choose(c.rnd, c.ledger.there(prefix, func(_ string, e entry) bool { return !e.is().half }))
}

// update changes a label.
func (c *containerd) update(ctx context.Context) {
	name := c.any()
	if name == "" {
		return
	}
	value, _ := c.label()
	e, _ := c.ledger.entry(name)
	p := *e.may[0]
	p.label = value
	c.ledger.begin(name, &p)
	if err := c.call(ctx, "Update", func(ctx context.Context) error {
		info := snapshots.Info{Name: key(name), Labels: map[string]string{labelSoak: value}}
		_, err := c.d.to().snapshots.Update(ctx, info, "labels."+labelSoak)
		return err
	}); err == nil {
		c.ledger.settle(name, &p)
	}
}

// describe compares what containerd is told about a snapshot with what it should be.
func (c *containerd) describe(ctx context.Context) {
	name := c.any()
	if name == "" {
		return
	}
	e, _ := c.ledger.entry(name)
	p := e.may[0]
	var info snapshots.Info
	if err := c.call(ctx, "snapshot Stat", func(ctx context.Context) (err error) {
		info, err = c.d.to().snapshots.Stat(ctx, key(name))
		return err
	}); err != nil {
		return
	}
	if info.Parent != key(p.parent) || info.Labels[labelSoak] != p.label || (info.Kind == snapshots.KindActive) == p.fixed {
		c.report.lose(lossWrong, "snapshot %s is %+v, want parent %q and label %q", name, info, p.parent, p.label)
	}
}

func (c *containerd) walk(ctx context.Context) {
	_ = c.call(ctx, "Walk", func(ctx context.Context) error { // it is in the report
		return c.d.to().snapshots.Walk(ctx, func(context.Context, snapshots.Info) error { return nil })
	})
}

func (c *containerd) usage(ctx context.Context) {
	if name := c.any(); name != "" {
		_ = c.call(ctx, "snapshot Usage", func(ctx context.Context) error { // it is in the report
			_, err := c.d.to().snapshots.Usage(ctx, key(name))
			return err
		})
	}
}
