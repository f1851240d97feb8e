package snapshotter

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/errdefs"
	"gotest.tools/v3/assert"
)

// client is one of many clients of one store.
type client struct {
	snapshots.Snapshotter
	t      *testing.T
	images []string // which all of them make, use and remove
}

// TestManyClients: many clients make and remove the same images, and run containers on them. No container notices.
func TestManyClients(t *testing.T) {
	r := newRig(t, Options{})
	remote := proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(dial(t, r.Snapshotter, nil, nil)), "strata")
	c := &client{remote, t, []string{"i1", "i2", "i3"}}
	var group sync.WaitGroup
	for number := range 8 {
		group.Go(func() {
			for round := range 25 {
				c.image(fmt.Sprintf("draft%d-%d", number, round))
				c.container(fmt.Sprintf("c%d-%d", number, round))
			}
		})
	}
	group.Wait()
	for _, name := range r.walk() {
		assert.NilError(t, remote.Remove(t.Context(), name))
	}
	assert.NilError(t, r.store.Settle(t.Context()))
	info, err := r.store.Info(t.Context())
	assert.NilError(t, err)
	for _, dir := range []string{"layers", "logs", "data/dir", "mnt", "mnt/.own"} {
		left, err := os.ReadDir(filepath.Join(info.Root, dir))
		assert.NilError(t, err)
		left = slices.DeleteFunc(left, func(e os.DirEntry) bool { return e.Name() == ".own" })
		assert.Equal(t, len(left), 0, "%s: %v", dir, left)
	}
}

// image makes an image, whatever the others do, and then removes it, or looks at it.
func (c *client) image(draft string) {
	ctx, image := c.t.Context(), c.images[rand.IntN(len(c.images))]
	if _, err := c.Prepare(ctx, draft, ""); err != nil {
		c.t.Errorf("prepare %s: %v", draft, err)
		return
	}
	err := c.Commit(ctx, image, draft)
	if errdefs.IsAlreadyExists(err) {
		err = c.Remove(ctx, draft)
	}
	if err != nil {
		c.t.Errorf("commit or remove %s: %v", draft, err)
	}
	calls := []func() error{
		func() error { return c.Remove(ctx, image) },
		func() error { return c.Remove(ctx, image) },
		func() error { return second(c.Usage(ctx, image)) },
		func() error { return second(c.Stat(ctx, image)) },
		func() error {
			return second(c.Update(ctx, snapshots.Info{Name: image, Labels: map[string]string{"by": draft}}, "labels.by"))
		},
	}
	err = calls[rand.IntN(len(calls))]()
	for _, is := range []func(error) bool{errdefs.IsNotFound, errdefs.IsFailedPrecondition, errdefs.IsAborted} {
		if err == nil || is(err) {
			return
		}
	}
	c.t.Errorf("image %s: %v", image, err)
}

// container runs a container on an image. Only making it may fail: the image may be gone.
func (c *client) container(name string) {
	ctx, image := c.t.Context(), c.images[rand.IntN(len(c.images))]
	mounts, err := c.Prepare(ctx, name, image)
	if err != nil {
		if !errdefs.IsNotFound(err) {
			c.t.Errorf("prepare container: %v", err)
		}
		return
	}
	committed, again := name+"-committed", name+"-again"
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"write", func() error { return os.WriteFile(filepath.Join(mounts[0].Source, "file"), []byte(name), 0o644) }},
		{"view", func() error { return second(c.View(ctx, name+"-view", image)) }},
		{"mounts", func() error { return second(c.Mounts(ctx, name)) }},
		{"usage", func() error { return second(c.Usage(ctx, name)) }},
		{"commit", func() error { return c.Commit(ctx, committed, name) }},
		{"prepare", func() error { return second(c.Prepare(ctx, again, committed)) }},
		{"remove", func() error { return c.Remove(ctx, again) }},
		{"remove", func() error { return c.Remove(ctx, committed) }},
		{"remove", func() error { return c.Remove(ctx, name+"-view") }},
	} {
		if err := step.do(); err != nil {
			c.t.Errorf("%s container %s: %v", step.what, name, err)
			return
		}
	}
	if _, err := c.Stat(ctx, committed); !errdefs.IsNotFound(err) {
		c.t.Errorf("removed container %s: %v", name, err)
	}
}
