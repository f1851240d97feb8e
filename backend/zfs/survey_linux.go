package zfs

import (
	"context"
	"fmt"
	"strings"
	"time"

	gozfs "github.com/mistifyio/go-zfs/v4"

	"github.com/containerd/errdefs"

	"strata/backend"
)

// row is one line of a list: a dataset or snapshot with some of its properties.
type row struct {
	name, kind, origin, mountpoint, mounted, store, clones string
	created                                                time.Time
}

// list returns what lies below the parent dataset, down to the given depth.
func (z *zfs) list(ctx context.Context, kinds string, depth int) ([]row, error) {
	const columns = "name,type,origin,mountpoint,mounted," + storeProperty + ",clones,creation"
	out, err := tool(ctx, nil, "zfs", "list", "-Hp", "-t", kinds, "-d", fmt.Sprint(depth), "-o", columns, z.parent)
	if err != nil {
		return nil, err
	}
	var rows []row
	for line := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(f) != 8 {
			return nil, fmt.Errorf("zfs list: line %q has %d columns: %w", line, len(f), errdefs.ErrInternal)
		}
		if f[0] == z.parent || strings.HasPrefix(f[0], z.parent+"@") {
			continue
		}
		var seconds int64
		if _, err := fmt.Sscan(f[7], &seconds); err != nil {
			return nil, fmt.Errorf("zfs list: time of creation %q: %w", f[7], errdefs.ErrInternal)
		}
		rows = append(rows, row{f[0], f[1], f[2], f[3], f[4], f[5], f[6], time.Unix(seconds, 0)})
	}
	return rows, nil
}

// id returns the last part of a dataset's name.
func (r row) id() string { return r.name[strings.LastIndexByte(r.name, '/')+1:] }

// List returns the datasets that this store has made or adopted.
func (z *zfs) List(ctx context.Context) ([]string, error) {
	rows, err := z.list(ctx, "filesystem", 1)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, r := range rows {
		if r.store == z.uuid {
			ids = append(ids, r.id())
		}
	}
	return ids, nil
}

// leftover is how old a momentary snapshot is before it counts as left behind: a comparison takes seconds.
const leftover = time.Hour

// Survey finds snapshots that others have made of layers, datasets that they have made below them, and momentary
// snapshots that were left behind by a process that was killed, which repair destroys.
func (z *zfs) Survey(ctx context.Context, repair bool) ([]backend.Oddity, error) {
	rows, err := z.list(ctx, "filesystem,volume,snapshot", 2)
	if err != nil {
		return nil, err
	}
	layers := map[string]bool{}
	for _, r := range rows {
		if r.store == z.uuid && r.kind == "filesystem" && z.dataset(r.id()) == r.name {
			layers[r.name] = true
		}
	}
	var found []backend.Oddity
	for _, r := range rows {
		o, err := z.judge(r, layers, repair)
		if err != nil {
			return found, err
		}
		if o != nil {
			found = append(found, *o)
		}
	}
	return found, nil
}

// judge tells what is odd about one row, nil if nothing is.
func (z *zfs) judge(r row, layers map[string]bool, repair bool) (*backend.Oddity, error) {
	dataset, name, isSnapshot := strings.Cut(r.name, "@")
	owner := dataset
	if !isSnapshot {
		owner = dataset[:strings.LastIndexByte(dataset, '/')]
	}
	if !layers[owner] {
		return nil, nil //nolint:nilnil // not odd: it is not ours
	}
	o := &backend.Oddity{ID: owner[strings.LastIndexByte(owner, '/')+1:]}
	switch {
	case !isSnapshot:
		o.Detail = fmt.Sprintf("somebody has made the %s %s below the layer, which cannot be removed because of it", r.kind, r.name)
	case r.name == snapshot(dataset), r.clones != "-" && r.clones != "":
		return nil, nil //nolint:nilnil // made by Seal, or what a layer is made of
	case !strings.HasPrefix(name, momentary):
		o.Detail = fmt.Sprintf("somebody has made the snapshot %s, which keeps space until the layer is removed: zfs destroy it", r.name)
	case time.Since(r.created) < leftover:
		return nil, nil //nolint:nilnil // in use
	default:
		o.Detail = fmt.Sprintf("the snapshot %s was left behind by an operation that was cut off", r.name)
		if repair {
			if err := z.device.Destroy(r.name, false); err != nil {
				return nil, err
			}
			o.Repaired = "destroyed"
		}
	}
	return o, nil
}

// adoptable picks the datasets that look like layers of Docker's or podman's zfs driver, parents first: mounted by
// hand, named like an ID, unused, of no store, and made from nothing, from each other or from a layer of this store: an
// adoption may have been cut off.
func (z *zfs) adoptable(rows []row) []row {
	waiting := map[string]row{}
	done := map[string]bool{}
	for _, r := range rows {
		switch {
		case r.kind != "filesystem" || r.name != z.dataset(r.id()):
		case r.store == z.uuid:
			done[r.name] = true
		case r.store == "-" && r.mountpoint == "legacy" && r.mounted == "no" && backend.CheckID(r.id()) == nil:
			waiting[r.name] = r
		}
	}
	var found []row
	for more := true; more; {
		more = false
		for _, r := range rows { // sorted by name
			from, _, _ := strings.Cut(r.origin, "@")
			if _, ok := waiting[r.name]; ok && (from == "-" || done[from]) {
				delete(waiting, r.name)
				done[r.name], more = true, true
				found = append(found, r)
			}
		}
	}
	return found
}

// Adoptable lists the layers of Docker's and podman's zfs drivers below the same parent dataset.
func (z *zfs) Adoptable(ctx context.Context) ([]backend.Foundling, error) {
	rows, err := z.list(ctx, "filesystem", 1)
	if err != nil {
		return nil, err
	}
	found := z.adoptable(rows)
	list := make([]backend.Foundling, 0, len(found))
	for _, r := range found {
		from, _, _ := strings.Cut(r.origin, "@")
		f := backend.Foundling{ID: r.id()}
		if from != "-" {
			f.Parent = from[strings.LastIndexByte(from, '/')+1:]
		}
		list = append(list, f)
	}
	return list, nil
}

// Adopt marks the dataset as a layer of this store. Its maker's driver pays no attention to that.
func (z *zfs) Adopt(ctx context.Context, l backend.Layer) error {
	if err := backend.CheckID(l.ID); err != nil {
		return err
	}
	_, err := tool(ctx, nil, "zfs", "set", storeProperty+"="+z.uuid, autoSnapshot+"=false", z.dataset(l.ID))
	return err
}

// Report tells what Docker's own zfs driver tells, in its order, but as it is now. What cannot be learned is told in
// its place: a report must be had above all when a pool is in trouble.
func (z *zfs) Report(context.Context) ([]backend.Field, error) {
	var fields []backend.Field
	add := func(name string, value any) {
		fields = append(fields, backend.Field{Name: name, Value: fmt.Sprint(value)})
	}
	if z.blind != "" {
		add("Changes", "whole trees are compared: "+z.blind)
	}
	pool, err := poolOf(z.parent)
	if err != nil {
		add("Zpool", err)
		add("Zpool Health", "not available")
	} else {
		add("Zpool", pool.Name)
		add("Zpool Health", pool.Health)
	}
	add("Parent Dataset", z.parent)
	d, err := gozfs.GetDataset(z.parent)
	if err != nil {
		add("Space Used By Parent", err)
		return fields, nil
	}
	add("Space Used By Parent", d.Used)
	add("Space Available", d.Avail)
	if d.Quota == 0 {
		add("Parent Quota", "no")
	} else {
		add("Parent Quota", d.Quota)
	}
	add("Compression", d.Compression)
	return fields, nil
}
