package backendtest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

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
		{name: "checks beside everything else", run: checksBesideAll},
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
	changes, err := Collect(s.Changes(ctx, name, name+"-init"))
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

// envSoak says for how long checksBesideAll runs, as in "1m".
const envSoak = "STRATA_TEST_SOAK"

func soakTime(r *rig) time.Duration {
	r.t.Helper()
	text := os.Getenv(envSoak)
	if text == "" {
		return 2 * time.Second
	}
	d, err := time.ParseDuration(text)
	assert.NilError(r.t, err, envSoak)
	return d
}

// checksBesideAll: what others are making, filling and removing is no finding, and no garbage.
func checksBesideAll(r *rig) {
	const clients = 6
	end := time.Now().Add(soakTime(r))
	g, ctx := errgroup.WithContext(r.ctx())
	loop := func(round func(i int) error) {
		g.Go(func() error {
			for i := 0; i == 0 || time.Now().Before(end) && ctx.Err() == nil; i++ {
				if err := round(i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for client := range clients {
		loop(func(i int) error { return image(ctx, r.store, fmt.Sprintf("c%d-%d", client, i)) })
	}
	for _, o := range []store.CheckOptions{{Repair: true}, {Repair: true, Deep: true}, {}} {
		loop(func(int) error {
			found, err := r.store.Check(ctx, o)
			if err != nil || len(found) > 0 {
				return fmt.Errorf("check %+v: %v, %w", o, found, cmp.Or(err, errFound))
			}
			return nil
		})
	}
	loop(func(int) error {
		found, err := r.store.GC(ctx, store.GCOptions{Yes: true})
		if err != nil || len(found) > 0 {
			return fmt.Errorf("garbage: %v, %w", found, cmp.Or(err, errFound))
		}
		return nil
	})
	assert.NilError(r.t, g.Wait())
	assert.Equal(r.t, len(r.names()), 0)
}

var errFound = errors.New("there is nothing to be found")

// image is the life of the layers of an image, and of two containers on it. All of them stay until they are removed here.
func image(ctx context.Context, s *store.Store, name string) error {
	text := archive(file("f", name), directory("d"), file("d/g", name))
	base, top, rw, clone, done := name+"-base", name+"-top", name+"-rw", name+"-clone", name+"-done"
	create := func(layer, parent string, o store.CreateOptions) func() error {
		return func() error { return s.Create(ctx, layer, parent, o) }
	}
	apply := func(layer string) func() error {
		return func() error { _, err := s.Apply(ctx, layer, bytes.NewReader(text)); return err }
	}
	for i, step := range []func() error{
		create(base, "", store.CreateOptions{}), apply(base),
		create(top, base, store.CreateOptions{Draft: true}), apply(top),
		create(rw, top, store.CreateOptions{}), func() error { return writeTo(ctx, s, rw) },
		func() error { return s.Clone(ctx, clone, rw, store.CreateOptions{}) },
		create(done+"-key", top, store.CreateOptions{}), func() error { return writeTo(ctx, s, done+"-key") },
		func() error { return s.Commit(ctx, done+"-key", done, store.CommitOptions{}) },
		func() error { return gives(ctx, s, base, "", text) },
		func() error { return gives(ctx, s, top, base, text) },
		func() error { return removeStanding(ctx, s, clone, done, rw, top, base) },
	} {
		if err := step(); err != nil {
			return fmt.Errorf("%s, step %d: %w", name, i, err)
		}
	}
	return nil
}

// writeTo writes to a layer while it is mounted.
func writeTo(ctx context.Context, s *store.Store, name string) error {
	dir, err := s.Mount(ctx, name, store.MountOptions{})
	if err != nil {
		return err
	}
	return errors.Join(Append("f", []byte(name))(dir), s.Unmount(ctx, name))
}

// gives compares a layer's diff with the tar that filled it.
func gives(ctx context.Context, s *store.Store, name, parent string, text []byte) error {
	var b bytes.Buffer
	if err := s.Diff(ctx, name, parent, &b); err != nil {
		return err
	}
	if !bytes.Equal(b.Bytes(), text) {
		return fmt.Errorf("layer %s gives other bytes back", name)
	}
	return nil
}

// removeStanding removes layers that are all there.
func removeStanding(ctx context.Context, s *store.Store, names ...string) error {
	for _, name := range names {
		if _, err := s.Stat(ctx, name); err != nil {
			return err
		}
		if err := s.Remove(ctx, name); err != nil {
			return err
		}
	}
	return nil
}
