package store

import (
	"context"
	"fmt"
	"maps"

	"github.com/containerd/errdefs"
)

const (
	// maxLabel is the length of a label's key and value together, bytes: containerd's limit (pkg/labels/validate.go).
	maxLabel = 4096
	// maxLabels is the length of all labels of a layer, bytes. containerd's snapshots API sends a hundred snapshots in one message
	// of 16 MiB at most.
	maxLabels = 128 << 10
)

// UpdateLabels changes the front end's labels of a layer, and returns the layer as it is then. change edits a copy of the labels
// that the layer has; nothing else changes the layer meanwhile. An error of change leaves the labels as they are. ErrNotFound, also
// if the layer was given another name; ErrInvalidArgument (a label, or all of them, too long), ErrFailedPrecondition (the layer
// lies in an additional store).
func (s *Store) UpdateLabels(ctx context.Context, name string, change func(labels map[string]string) error) (Info, error) {
	if err := s.writable(); err != nil {
		return Info{}, err
	}
	l, rec, err := s.holdReady(ctx, name)
	if err != nil {
		return Info{}, err
	}
	defer l.mu.Unlock()
	if l.peer != nil {
		return Info{}, fmt.Errorf("layer %q lies in the read-only store %s: %w", name, l.peer.root, errdefs.ErrFailedPrecondition)
	}
	labels := maps.Clone(rec.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	if err := change(labels); err != nil {
		return Info{}, err
	}
	if err := checkLabels(labels); err != nil {
		return Info{}, err
	}
	if err := s.update(l, func(r *record) { r.Labels = labels }); err != nil {
		return Info{}, s.layerError("label", l, err)
	}
	return s.info(l), nil
}

// checkLabels refuses labels that are too long, and one without a key.
func checkLabels(labels map[string]string) error {
	all := 0
	for key, value := range labels {
		size := len(key) + len(value)
		switch {
		case key == "":
			return fmt.Errorf("a label without a key: %w", errdefs.ErrInvalidArgument)
		case size > maxLabel:
			return fmt.Errorf("label %.64q: key and value have %d bytes, they can have %d: %w", key, size, maxLabel, errdefs.ErrInvalidArgument)
		}
		all += size
	}
	if all > maxLabels {
		return fmt.Errorf("%d labels of %d bytes, they can have %d: %w", len(labels), all, maxLabels, errdefs.ErrInvalidArgument)
	}
	return nil
}
