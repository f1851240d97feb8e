package backendtest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/containerd/errdefs"

	"strata/backend"
)

// Memory is a backend that keeps no files: a layer is a [MemoryTree], made by copying its parent. It
// takes layers through a sink and cannot mount them. It shows what backend.Sinker asks for, and is
// not meant for more than tests: layers are gone with the process.
type Memory struct {
	mu     sync.Mutex
	layers map[string]*MemoryTree
}

var (
	_ backend.Backend = (*Memory)(nil)
	_ backend.Sinker  = (*Memory)(nil)
	_ backend.Lister  = (*Memory)(nil)
)

// NewMemory returns a backend without layers.
func NewMemory() *Memory { return &Memory{layers: map[string]*MemoryTree{}} }

// Create copies the parent.
func (m *Memory) Create(_ context.Context, l backend.Layer) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l.Parent() == "" {
		m.layers[l.ID] = NewMemoryTree()
		return nil
	}
	parent, ok := m.layers[l.Parent()]
	if !ok {
		return fmt.Errorf("parent %s: %w", l.Parent(), errdefs.ErrNotFound)
	}
	m.layers[l.ID] = parent.Clone()
	return nil
}

// Remove forgets the layer.
func (m *Memory) Remove(_ context.Context, l backend.Layer) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.layers, l.ID)
	return nil
}

// Mounts is not supported.
func (m *Memory) Mounts(context.Context, backend.Layer, backend.MountOptions) ([]backend.Mount, error) {
	return nil, fmt.Errorf("memory has no mounts: %w", errdefs.ErrNotImplemented)
}

// List returns the IDs of all layers.
func (m *Memory) List(context.Context) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Keys(m.layers)), nil
}

// Sink fills a layer.
func (m *Memory) Sink(_ context.Context, l backend.Layer) (backend.Sink, error) {
	t, err := m.tree(l)
	if err != nil {
		return nil, err
	}
	uid, gid, err := l.IDMap.Root()
	return &memSink{root: t.root, uid: uid, gid: gid}, err
}

// Source reads a layer.
func (m *Memory) Source(_ context.Context, l backend.Layer) (backend.Source, error) {
	return m.tree(l)
}

func (m *Memory) tree(l backend.Layer) (*MemoryTree, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t, ok := m.layers[l.ID]
	if !ok {
		return nil, fmt.Errorf("layer %s: %w", l.ID, errdefs.ErrNotFound)
	}
	return t, nil
}
