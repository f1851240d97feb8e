package graphtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	storage "github.com/containers/storage/drivers"
	storagesuite "github.com/containers/storage/drivers/graphtest"
	"github.com/containers/storage/pkg/archive"
	"github.com/containers/storage/pkg/idtools"
	moby "github.com/docker/docker/daemon/graphdriver"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/store"
)

// TestContainersStorage runs the cases that containers/storage's own drivers are tested with; its zfs
// driver with the first five and SetQuota. None of them knows of exact diffs.
func TestContainersStorage(t *testing.T) {
	eachRig(t, []bool{false}, func(t *testing.T, r *rig, g backend.Ground) {
		for _, tc := range []struct {
			name string
			run  func(t *testing.T)
		}{
			{"CreateEmpty", func(t *testing.T) { storagesuite.DriverTestCreateEmpty(t, r.name) }},
			{"CreateBase", func(t *testing.T) { storagesuite.DriverTestCreateBase(t, r.name) }},
			{"CreateSnap", func(t *testing.T) { storagesuite.DriverTestCreateSnap(t, r.name) }},
			{"CreateFromTemplate", func(t *testing.T) { storagesuite.DriverTestCreateFromTemplate(t, r.name) }},
			{"Echo", func(t *testing.T) { storagesuite.DriverTestEcho(t, r.name) }},
			{"DeepLayerRead128", func(t *testing.T) { storagesuite.DriverTestDeepLayerRead(t, 128, r.name) }},
			{"DiffApply100", func(t *testing.T) { storagesuite.DriverTestDiffApply(t, 100, r.name) }},
			{"Changes", func(t *testing.T) { storagesuite.DriverTestChanges(t, r.name) }},
			{"ListLayers", func(t *testing.T) { storagesuite.DriverTestListLayers(t, r.name) }},
		} {
			t.Run(tc.name, tc.run)
		}
		if g.Limits {
			t.Run("SetQuota", func(t *testing.T) { setQuota(t, r.name) })
		}
	})
}

// setQuota runs a case that writes 100 MiB to a layer limited to 50 and is content if nothing keeps it from that. So it
// looks at what was written, while the layer is still there.
func setQuota(t *testing.T, driver string) {
	storagesuite.DriverTestSetQuota(t, driver)
	d := storagesuite.GetDriver(t, driver)
	dir, err := d.Get("quotaTest", storage.MountOpts{})
	assert.NilError(t, err)
	fi, err := os.Stat(filepath.Join(dir, "file"))
	assert.NilError(t, errors.Join(err, d.Put("quotaTest")))
	assert.Assert(t, fi.Size() < 100<<20, "%d bytes were written", fi.Size())
}

// storageDriver is a driver as containers/storage wants it. What the GraphDriver protocol has no call
// for goes to the store. What no case calls is not there: it would panic. No case maps owners, so all ID
// mappings are nil.
type storageDriver struct {
	storage.Driver
	driver *driver
}

func (d *storageDriver) Create(name, parent string, o *storage.CreateOpts) error {
	return d.create(d.driver.Create, name, parent, o)
}

func (d *storageDriver) CreateReadWrite(name, parent string, o *storage.CreateOpts) error {
	return d.create(d.driver.CreateReadWrite, name, parent, o)
}

// rootMode is what containers/storage gives the root directory of a base layer. Docker wants 0755 there.
const rootMode = 0o555

// create changes the mode of a base layer's root directory through a mount, as containers/storage's zfs driver does.
func (d *storageDriver) create(do func(name, parent string, o *moby.CreateOpts) error, name, parent string, o *storage.CreateOpts) (err error) {
	var opts *moby.CreateOpts
	if o != nil {
		opts = &moby.CreateOpts{MountLabel: o.MountLabel, StorageOpt: o.StorageOpt}
	}
	if err := do(name, parent, opts); err != nil || parent != "" {
		return err
	}
	dir, err := d.driver.Get(name, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.driver.Put(name)) }()
	return os.Chmod(dir, rootMode)
}

func (d *storageDriver) CreateFromTemplate(name, template string, _ *idtools.IDMappings, parent string, _ *idtools.IDMappings, _ *storage.CreateOpts, _ bool) error {
	ctx := context.Background()
	s, err := d.driver.keeper.Store(ctx)
	if err != nil {
		return err
	}
	if err := s.Clone(ctx, name, template, store.CreateOptions{}); err != nil {
		return err
	}
	i, err := s.Stat(ctx, name)
	if err == nil && i.Parent != parent {
		err = fmt.Errorf("layer %s is a child of %q, not of %s", name, i.Parent, parent)
	}
	return err
}

func (d *storageDriver) Remove(name string) error { return d.driver.Remove(name) }

func (d *storageDriver) Get(name string, o storage.MountOpts) (string, error) {
	return d.driver.Get(name, o.MountLabel)
}

func (d *storageDriver) Put(name string) error { return d.driver.Put(name) }

func (d *storageDriver) Exists(name string) bool { return d.driver.Exists(name) }

// ListLayers lists children before their parents, by the names that they have in the store.
func (d *storageDriver) ListLayers() ([]string, error) {
	ctx := context.Background()
	s, err := d.driver.keeper.Store(ctx)
	if err != nil {
		return nil, err
	}
	list, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(list, func(a, b store.Info) int { return b.Created.Compare(a.Created) })
	names := make([]string, 0, len(list))
	for _, l := range list {
		names = append(names, l.Name)
	}
	return names, nil
}

func (d *storageDriver) Diff(name string, _ *idtools.IDMappings, parent string, _ *idtools.IDMappings, _ string) (io.ReadCloser, error) {
	return d.driver.Diff(name, parent)
}

func (d *storageDriver) Changes(name string, _ *idtools.IDMappings, parent string, _ *idtools.IDMappings, _ string) ([]archive.Change, error) {
	changes, err := d.driver.Changes(name, parent)
	list := make([]archive.Change, 0, len(changes))
	for _, c := range changes {
		list = append(list, archive.Change{Path: c.Path, Kind: archive.ChangeType(c.Kind)}) // numbered alike
	}
	return list, err
}

func (d *storageDriver) ApplyDiff(name, parent string, o storage.ApplyDiffOpts) (int64, error) {
	return d.driver.ApplyDiff(name, parent, o.Diff)
}

func (d *storageDriver) DiffSize(name string, _ *idtools.IDMappings, parent string, _ *idtools.IDMappings, _ string) (int64, error) {
	return d.driver.DiffSize(name, parent)
}

func (d *storageDriver) Cleanup() error { return d.driver.Cleanup() }
