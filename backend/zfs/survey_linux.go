package zfs

import (
	"context"
	"fmt"
	"strings"
	"time"

	gozfs "github.com/mistifyio/go-zfs/v4"

	"strata/backend"
	"strata/backend/zfs/command"
)

// list returns what lies below the parent dataset, down to a depth.
func (z *zfs) list(ctx context.Context, kinds string, depth int) ([]command.Row, error) {
	return command.List(ctx, z.parent, kinds, depth, storeProperty)
}

// List returns the datasets that this store has made or adopted.
func (z *zfs) List(ctx context.Context) ([]string, error) {
	rows, err := z.list(ctx, "filesystem", 1)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, r := range rows {
		if r.Owner == z.uuid {
			ids = append(ids, r.Base())
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
		if r.Owner == z.uuid && r.Type == "filesystem" && z.dataset(r.Base()) == r.Name {
			layers[r.Name] = true
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
func (z *zfs) judge(r command.Row, layers map[string]bool, repair bool) (*backend.Oddity, error) {
	dataset, name, isSnapshot := strings.Cut(r.Name, "@")
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
		o.Detail = fmt.Sprintf("somebody has made the %s %s below the layer, which cannot be removed because of it", r.Type, r.Name)
	case r.Name == snapshot(dataset), r.Clones != "-" && r.Clones != "":
		return nil, nil //nolint:nilnil // made by Seal, or what a layer is made of
	case !strings.HasPrefix(name, momentary):
		o.Detail = fmt.Sprintf("somebody has made the snapshot %s, which keeps space until the layer is removed: zfs destroy it", r.Name)
	case time.Since(r.Created) < leftover:
		return nil, nil //nolint:nilnil // in use
	default:
		o.Detail = fmt.Sprintf("the snapshot %s was left behind by an operation that was cut off", r.Name)
		if repair {
			if err := z.device.Destroy(r.Name, false); err != nil {
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
func (z *zfs) adoptable(rows []command.Row) []command.Row {
	waiting := map[string]command.Row{}
	done := map[string]bool{}
	for _, r := range rows {
		switch {
		case r.Type != "filesystem" || r.Name != z.dataset(r.Base()):
		case r.Owner == z.uuid:
			done[r.Name] = true
		case r.Owner == "-" && r.Mountpoint == "legacy" && r.Mounted == "no" && backend.CheckID(r.Base()) == nil:
			waiting[r.Name] = r
		}
	}
	var found []command.Row
	for more := true; more; {
		more = false
		for _, r := range rows { // sorted by name
			from, _, _ := strings.Cut(r.Origin, "@")
			if _, ok := waiting[r.Name]; ok && (from == "-" || done[from]) {
				delete(waiting, r.Name)
				done[r.Name], more = true, true
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
		from, _, _ := strings.Cut(r.Origin, "@")
		f := backend.Foundling{ID: r.Base()}
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
	_, err := command.Run(ctx, "zfs", "set", storeProperty+"="+z.uuid, autoSnapshot+"=false", z.dataset(l.ID))
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
	pool, err := command.Pool(z.parent)
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
