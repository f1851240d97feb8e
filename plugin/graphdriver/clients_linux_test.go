package graphdriver

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"gotest.tools/v3/assert"
)

// daemon is one of many clients of one store.
type daemon struct {
	*disk
	t      *testing.T
	number int
	images []string // which all of them make, use and remove
	tar    []byte
}

// TestManyClients: many clients make and remove the same images, and run containers on them. No container notices.
func TestManyClients(t *testing.T) {
	d := newDisk(t, true)
	d.init()
	images := []string{"i1", "i2", "i3"}
	text := makeTar(t, entry{name: "dir/"}, entry{name: "dir/file", content: "content"})
	var group sync.WaitGroup
	for number := range 8 {
		c := &daemon{d, t, number, images, text}
		group.Go(func() {
			for round := range 25 {
				c.image()
				c.container(fmt.Sprintf("c%d-%d", number, round))
			}
		})
	}
	group.Wait()
	for _, image := range images {
		d.ok("Remove", arguments{ID: id(image)})
	}
	s, err := d.k.Store(t.Context())
	assert.NilError(t, err)
	assert.NilError(t, s.Settle(t.Context()))
	for _, dir := range []string{"layers", "logs", "data/dir", "mnt", "mnt/.own"} {
		left, err := os.ReadDir(filepath.Join(d.root, dir))
		assert.NilError(t, err)
		left = slices.DeleteFunc(left, func(e os.DirEntry) bool { return e.Name() == ".own" })
		assert.Equal(t, len(left), 0, "%s: %v", dir, left)
	}
}

// image makes an image, or removes it, or reads it, whatever the others do.
func (c *daemon) image() {
	image := c.images[rand.IntN(len(c.images))]
	a := arguments{ID: id(image)}
	calls := []func() error{
		func() error { _, err := c.call("Create", a); return err },
		func() error { _, err := c.apply(image, "", bytes.NewReader(c.tar)); return err },
		func() error { _, err := c.call("Remove", a); return err },
		func() error { _, err := c.call("Get", a); return err },
		func() error { _, err := c.call("Put", a); return err },
		func() error { _, err := c.call("GetMetadata", a); return err },
		func() error { _, err := c.call("Changes", a); return err },
		func() error { _, err := c.call("DiffSize", a); return err },
		func() error {
			got, err := c.diff(image, "")
			if names := tarNames(c.t, got); err == nil && len(names) != 0 && len(names) != 2 {
				return fmt.Errorf("the diff of an image has %q", names)
			}
			return err
		},
	}
	err := calls[rand.IntN(len(calls))]()
	for _, known := range []string{"not found", "already exists", "has its content already", "is mounted", "may have been written to", "can only be removed", "was removed"} {
		if err == nil || strings.Contains(err.Error(), known) {
			return
		}
	}
	c.t.Errorf("image %s: %v", image, err)
}

// container runs a container on an image. Only making it may fail: the image may be gone.
func (c *daemon) container(name string) {
	own, parent := arguments{ID: id(name)}, c.images[rand.IntN(len(c.images))]
	if _, err := c.call("Create", arguments{ID: id(name), Parent: id(parent)}); err != nil {
		if !strings.Contains(err.Error(), "not found") && !strings.Contains(err.Error(), "it can only be removed") {
			c.t.Errorf("create container: %v", err)
		}
		return
	}
	for range 2 {
		a, err := c.call("Get", own)
		if err == nil {
			err = file(name)(a.Dir)
		}
		if err != nil {
			c.t.Errorf("run container %s: %v", name, err)
		}
		if _, err := c.call("Put", own); err != nil {
			c.t.Errorf("stop container %s: %v", name, err)
		}
	}
	if got, err := c.diff(name, ""); err != nil || !bytes.Contains(got, []byte(name)) {
		c.t.Errorf("diff of container %s: %d bytes, %v", name, len(got), err)
	}
	for _, there := range []bool{true, false} {
		a, err := c.call("Exists", own)
		if err != nil || a.Exists != there {
			c.t.Errorf("container %s exists: %t, %v, want %t", name, a.Exists, err, there)
		}
		if _, err := c.call("Remove", own); err != nil {
			c.t.Errorf("remove container %s: %v", name, err)
		}
	}
}
