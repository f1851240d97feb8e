package snapshotter

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"strata/backend/store"
)

// LabelLayer, in Prepare, names a layer of Docker's which holds what the snapshot is to hold. No active snapshot is made then,
// but a committed one: a link to the layer, for which nothing is copied. The label containerd.io/snapshot.ref has to say what
// containerd will call it. Prepare ends with ErrAlreadyExists, whereupon containerd looks for a committed snapshot with
// that label and parent, and takes it: the way of snapshotters that have layers elsewhere (core/metadata/snapshot.go,
// createSnapshot).
const LabelLayer = "containerd.io/snapshot/strata.layer"

// handOver makes a layer of Docker's the committed snapshot key. It does not return nil.
func (s *Snapshotter) handOver(ctx context.Context, l Layers, key, parent string, labels map[string]string) error {
	name, ref := labels[LabelLayer], labels[snapshots.LabelSnapshotRef]
	if ref == "" {
		return fmt.Errorf("label %s without %s: %w", LabelLayer, snapshots.LabelSnapshotRef, errdefs.ErrInvalidArgument)
	}
	if strings.HasPrefix(name, Prefix) {
		return fmt.Errorf("layer %q is containerd's own: %w", name, errdefs.ErrInvalidArgument)
	}
	i, err := l.Stat(ctx, name)
	if err != nil {
		return fmt.Errorf("layer %q: %w", name, err)
	}
	if i.IDMap != nil {
		return fmt.Errorf("layer %q has its owners mapped for a user namespace, a snapshot must not: %w", name, errdefs.ErrInvalidArgument)
	}
	if (i.Parent == "") != (parent == "") {
		return fmt.Errorf("layer %q stands on %q, the snapshot on %q: %w", name, i.Parent, parent, errdefs.ErrInvalidArgument)
	}
	known, err := handedOver(ctx, l, ref, parent)
	if err != nil {
		return err
	}
	if !known {
		labels[labelKind], labels[labelParent] = kindCommitted, parent
		if err := l.Link(ctx, Prefix+key, name, labels); err != nil {
			return err
		}
	}
	return fmt.Errorf("layer %q is snapshot %q: %w", name, ref, errdefs.ErrAlreadyExists)
}

// handedOver tells whether there is a snapshot already that containerd will find.
func handedOver(ctx context.Context, l Layers, ref, parent string) (bool, error) {
	list, err := l.List(ctx)
	if err != nil {
		return false, err
	}
	for _, i := range list {
		if isSnapshot(i) && isHandedOver(i) && i.Labels[snapshots.LabelSnapshotRef] == ref && i.Labels[labelParent] == parent {
			return true, nil
		}
	}
	return false, nil
}

// isHandedOver tells a snapshot that is a layer of Docker's.
func isHandedOver(i store.Info) bool { return i.Link && i.Labels[labelKind] == kindCommitted }
