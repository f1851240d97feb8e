package main

import (
	"bytes"
	"context"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/test/e2e/engine"
)

// namespace is containerd's in which the blobs are.
const namespace = "soak"

// unpack makes a committed snapshot of a tar, as containerd does when it pulls an image.
func (c *containerd) unpack(ctx context.Context) {
	name := choose(c.rnd, c.ledger.free(c.keys))
	if name == "" {
		return
	}
	parent, below := c.parent()
	ch, err := newChange(c.rnd, below)
	if err != nil {
		c.report.lose(lossFailed, "%v", err)
		return
	}
	desc, err := c.blobs.add(ctx, ch.tar, c.rnd.IntN(2) == 0)
	if c.note("store a blob", err); err != nil {
		return
	}
	defer c.blobs.drop(desc.Digest)
	value, _ := c.label()
	opt := snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotRef: "sha256:" + value, labelSoak: value})
	p := &promise{parent: parent, tree: below, label: value}
	mounts, ok := c.make(ctx, name, p, opt)
	if !ok {
		return
	}
	full := &promise{parent: parent, tree: ch.tree, label: value, whole: true}
	c.ledger.begin(name, full, nil, &promise{parent: parent, label: value, half: true})
	if err := c.call(ctx, "Apply", func(ctx context.Context) error {
		_, err := c.d.to().differ.Apply(namespaces.WithNamespace(ctx, namespace), desc, mounts)
		return err
	}); err != nil {
		return
	}
	c.ledger.settle(name, full)
	c.commitAs(ctx, name, choose(c.rnd, c.ledger.free(c.committed)))
}

// push has a committed snapshot compared with its parent, as containerd does when it pushes an image that it has no blob of.
func (c *containerd) push(ctx context.Context) {
	name := choose(c.rnd, c.ledger.there(c.committed, func(_ string, e entry) bool { return e.readable() && e.is().parent != "" }))
	keys := c.ledger.free(c.keys)
	if name == "" || len(keys) < 2 {
		return
	}
	e, _ := c.ledger.entry(name)
	below, _ := c.ledger.entry(e.is().parent)
	if below.is() == nil { // it may just be going
		return
	}
	var pairs [2][]mount.Mount
	for i, of := range []string{e.is().parent, name} {
		mounts, ok := c.viewOf(ctx, keys[i], of)
		if !ok {
			return
		}
		defer c.removeSnapshot(ctx, keys[i])
		pairs[i] = mounts
	}
	var desc ocispec.Descriptor
	if err := c.call(ctx, "Compare", func(ctx context.Context) (err error) {
		desc, err = c.d.to().differ.Compare(namespaces.WithNamespace(ctx, namespace), pairs[0], pairs[1], diff.WithMediaType(ocispec.MediaTypeImageLayer))
		return err
	}); err != nil {
		return
	}
	defer c.blobs.drop(desc.Digest)
	text, err := content.ReadBlob(ctx, c.blobs, desc)
	if c.note("read a blob", err); err != nil {
		return
	}
	own, err := engine.ReadManifest(bytes.NewReader(text))
	if diff := difference(e.is().tree, onTop(below.is().tree, own)); err != nil || diff != "" {
		c.report.lose(lossWrong, "Compare of %s makes a tar that is not the difference: %v %s", name, err, diff)
	}
}
