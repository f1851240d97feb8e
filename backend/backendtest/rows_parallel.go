package backendtest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/store"
)

// parallelRows run many things at once; with -race they find unguarded memory as well.
func parallelRows() []row {
	return []row{
		{name: "twenty containers at once", run: twentyContainers},
		{name: "one layer from many sides", run: oneLayerManySides},
		{name: "parallel applies", run: parallelApplies},
		{name: "parallel backend calls", run: parallelBackend},
	}
}

const workers = 20

func twentyContainers(r *rig) {
	r.create("image", "")
	r.write("image", aSmallTree())
	want := r.tree("image")
	g, ctx := errgroup.WithContext(r.ctx())
	for i := range workers {
		g.Go(func() error {
			for round := range 2 {
				if err := container(ctx, r.store, fmt.Sprintf("c%d-%d", i, round)); err != nil {
					return fmt.Errorf("container %d: %w", i, err)
				}
			}
			return nil
		})
	}
	assert.NilError(r.t, g.Wait())
	assert.DeepEqual(r.t, r.names(), []string{"image"})
	r.same(want, r.tree("image"), "image")
}

// container is the life of one container on top of the layer "image".
func container(ctx context.Context, s *store.Store, name string) error {
	if err := s.Create(ctx, name+"-init", "image", store.CreateOptions{}); err != nil {
		return err
	}
	if err := s.Create(ctx, name, name+"-init", store.CreateOptions{}); err != nil {
		return err
	}
	dir, err := s.Mount(ctx, name, store.MountOptions{})
	if err != nil {
		return err
	}
	if err := Steps(CreateFile("own", []byte(name), 0o644), Append("etc/passwd", []byte(name)), Remove("etc/up"))(dir); err != nil {
		return err
	}
	changes, err := s.Changes(ctx, name, name+"-init")
	if err != nil {
		return err
	}
	if len(changes) != 4 {
		return fmt.Errorf("%s: %d changes, want 4: %v", name, len(changes), changes)
	}
	if err := s.Diff(ctx, name, name+"-init", io.Discard); err != nil {
		return err
	}
	if text, err := os.ReadFile(filepath.Join(dir, "own")); err != nil || string(text) != name {
		return fmt.Errorf("%s: own file holds %q, %w", name, text, err)
	}
	if err := s.Unmount(ctx, name); err != nil {
		return err
	}
	if err := s.Remove(ctx, name); err != nil {
		return err
	}
	return s.Remove(ctx, name+"-init")
}

// oneLayerManySides: everything that may overlap on one layer does.
func oneLayerManySides(r *rig) {
	r.create("base", "")
	r.write("base", Root(3, 60))
	r.create("l", "base")
	r.write("l", CreateFile("f", nil, 0o644))
	want := r.diff("l", "base")
	g, ctx := errgroup.WithContext(r.ctx())
	for i := range workers {
		g.Go(func() error {
			dir, err := r.store.Mount(ctx, "l", store.MountOptions{})
			if err != nil {
				return err
			}
			if _, err := os.Stat(filepath.Join(dir, "f")); err != nil {
				return err
			}
			var b bytes.Buffer
			if err := r.store.Diff(ctx, "l", "base", &b); err != nil {
				return err
			}
			if !bytes.Equal(want, b.Bytes()) {
				return fmt.Errorf("diff %d is another one", i)
			}
			if _, err := r.store.Usage(ctx, "l"); err != nil {
				return err
			}
			return r.store.Unmount(ctx, "l")
		})
	}
	assert.NilError(r.t, g.Wait())
	assert.Equal(r.t, r.stat("l").Mounts, 0)
}

func parallelApplies(r *rig) {
	text := manyFiles(200)
	g, ctx := errgroup.WithContext(r.ctx())
	for i := range workers {
		g.Go(func() error {
			name := fmt.Sprint("l", i)
			if err := r.store.Create(ctx, name, "", store.CreateOptions{}); err != nil {
				return err
			}
			if _, err := r.store.Apply(ctx, name, bytes.NewReader(text)); err != nil {
				return err
			}
			var b bytes.Buffer
			if err := r.store.Diff(ctx, name, "", &b); err != nil {
				return err
			}
			if !bytes.Equal(text, b.Bytes()) {
				return fmt.Errorf("layer %s gives other bytes back", name)
			}
			return nil
		})
	}
	assert.NilError(r.t, g.Wait())
}

func parallelBackend(r *rig) {
	r.create("base", "")
	r.write("base", aSmallTree())
	r.create("seal", "base")
	parents := []backend.Parent{{ID: r.stat("base").ID}}
	g, ctx := errgroup.WithContext(r.ctx())
	for i := range workers {
		g.Go(func() error {
			l := backend.Layer{ID: fmt.Sprint("parallel", i), Parents: parents}
			for range 3 {
				if err := r.back.Create(ctx, l); err != nil {
					return err
				}
				if _, err := r.back.Mounts(ctx, l, backend.MountOptions{}); err != nil {
					return err
				}
				if err := r.back.Remove(ctx, l); err != nil {
					return err
				}
			}
			return nil
		})
	}
	assert.NilError(r.t, g.Wait())
}
