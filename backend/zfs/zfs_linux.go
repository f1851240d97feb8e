package zfs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strata/backend"
	"strata/backend/internal/failpoint"
	"strata/backend/internal/run"
	"strata/backend/zfs/command"
	"strata/backend/zfs/device"
	"strata/backend/zfs/parent"
)

// What this backend can do besides the three methods.
var (
	_ backend.Backend       = (*zfs)(nil)
	_ backend.Sealer        = (*zfs)(nil)
	_ backend.Narrower      = (*zfs)(nil)
	_ backend.Meter         = (*zfs)(nil)
	_ backend.Limiter       = (*zfs)(nil)
	_ backend.Cloner        = (*zfs)(nil)
	_ backend.Syncer        = (*zfs)(nil)
	_ backend.ContentSyncer = (*zfs)(nil)
	_ backend.Checker       = (*zfs)(nil)
	_ backend.Surveyor      = (*zfs)(nil)
	_ backend.Adopter       = (*zfs)(nil)
	_ backend.Lister        = (*zfs)(nil)
	_ backend.Describer     = (*zfs)(nil)
	_ backend.Reporter      = (*zfs)(nil)
	_ backend.Closer        = (*zfs)(nil)
)

// zfs does not change after New, so that its methods may be called concurrently.
type zfs struct {
	config *Config
	uuid   string
	parent string   // dataset below which the layers are
	others []string // the same of the additional stores
	device *device.Device
	// blind is why the kernel cannot be asked which objects changed, "" if it can. Trees are then compared as a whole.
	blind string
}

// New makes the backend: it finds the parent dataset and notes it in Home. ErrFailedPrecondition if there is none,
// if it is another one than the store was made with, or if ZFS or the pool is not in order; ErrInvalidArgument
// for options that make no sense.
func New(ctx context.Context, env backend.Env, c *Config) (backend.Backend, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	dev, err := device.Open()
	if err != nil {
		return nil, err
	}
	z := &zfs{config: c, uuid: env.UUID, device: dev}
	if z.parent, err = parent.Locate(ctx, env.Home, c.FSName, env.Fresh); err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	for _, home := range env.Stores {
		other, err := parent.Noted(home)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("additional store: %w", err), dev.Close())
		}
		z.others = append(z.others, other)
	}
	if err := dev.Probe(z.parent); err != nil {
		z.blind = err.Error() // no reason to refuse the store
	}
	return z, nil
}

// Close lets go of the device.
func (z *zfs) Close() error { return z.device.Close() }

// dataset returns the name of a layer's dataset.
func (z *zfs) dataset(id string) string { return z.parent + "/" + id }

// snapshot returns the name of the snapshot that Seal makes of a dataset.
func snapshot(dataset string) string {
	return dataset + "@" + dataset[strings.LastIndexByte(dataset, '/')+1:]
}

// Properties of the datasets that layers are kept in, besides those that Config has.
const (
	// storeProperty holds the UUID of the store that a layer belongs to.
	storeProperty = "strata:store"
	// autoSnapshot tells tools that make snapshots by the clock (zfs-auto-snapshot and its kin) to pass over.
	autoSnapshot = "com.sun:auto-snapshot"
)

// Create makes a clone of the nearest parent's snapshot, or an empty dataset. A dataset of that name is never
// touched: if an earlier call made it, this one has nothing to do, else it is ErrAlreadyExists.
func (z *zfs) Create(ctx context.Context, l backend.Layer) error {
	var origins []string
	if parent := l.Parent(); parent != "" {
		for _, place := range append([]string{z.parent}, z.others...) {
			origins = append(origins, snapshot(place+"/"+parent))
		}
	}
	return z.create(ctx, l, origins)
}

// Clone makes a clone of the template's snapshot. A template that is not sealed gets a snapshot that goes with the last
// clone.
func (z *zfs) Clone(ctx context.Context, l, template backend.Layer) error {
	origin := snapshot(z.dataset(template.ID))
	if template.Sealed {
		return z.create(ctx, l, []string{origin})
	}
	origin = z.dataset(template.ID) + "@" + momentary + l.ID
	if err := z.device.Snapshot(origin); err != nil && !errdefs.IsAlreadyExists(err) {
		return err
	}
	return errors.Join(z.create(ctx, l, []string{origin}), z.device.Destroy(origin, true))
}

// create makes l a clone of the first of the origins that is there, or an empty one if none are given.
func (z *zfs) create(ctx context.Context, l backend.Layer, origins []string) error {
	err := backend.CheckID(l.ID)
	for _, p := range l.Parents {
		err = errors.Join(err, backend.CheckID(p.ID))
	}
	if err != nil {
		return err
	}
	if len(origins) == 0 {
		err = z.makeEmpty(ctx, l)
	} else {
		err = z.makeClone(ctx, l, origins)
	}
	if err != nil {
		return err
	}
	return failpoint.Hit("zfs.create.dataset-made")
}

// makeEmpty makes the dataset of a layer without parents.
func (z *zfs) makeEmpty(ctx context.Context, l backend.Layer) error {
	args := []string{"zfs", "create", "-o", "mountpoint=legacy", "-o", autoSnapshot + "=false", "-o", storeProperty + "=" + z.uuid}
	for _, p := range z.config.properties() {
		args = append(args, "-o", p)
	}
	if l.Limit > 0 {
		args = append(args, "-o", "quota="+strconv.FormatInt(l.Limit, 10))
	}
	_, err := command.Run(ctx, append(args, z.dataset(l.ID))...)
	if run.Said(err, "dataset already exists") {
		return z.madeBefore(ctx, l.ID, nil, err)
	}
	return err
}

// makeClone makes the dataset a clone of the first of the origins that is there.
func (z *zfs) makeClone(ctx context.Context, l backend.Layer, origins []string) error {
	properties := []device.Pair{
		{Name: "mountpoint", Value: "legacy"}, {Name: autoSnapshot, Value: "false"}, {Name: storeProperty, Value: z.uuid},
	}
	var later []string
	known := numbers()
	for _, p := range z.config.properties() {
		if n, ok := known[p]; ok {
			name, _, _ := strings.Cut(p, "=")
			properties = append(properties, device.Pair{Name: name, Value: n})
		} else {
			later = append(later, p)
		}
	}
	if l.Limit > 0 {
		properties = append(properties, device.Pair{Name: "quota", Value: uint64(l.Limit)})
	}
	var err error
	for _, origin := range origins {
		if err = z.device.Clone(z.dataset(l.ID), origin, properties); !errdefs.IsNotFound(err) {
			break
		}
	}
	switch {
	case errors.Is(err, unix.EXDEV):
		return fmt.Errorf("%w: a layer of another pool than the store's: %w", err, errdefs.ErrNotImplemented)
	case errdefs.IsAlreadyExists(err):
		err = z.madeBefore(ctx, l.ID, origins, err)
	}
	if err == nil && len(later) > 0 {
		_, err = command.Run(ctx, append(append([]string{"zfs", "set"}, later...), z.dataset(l.ID))...)
	}
	return err
}

// madeBefore returns nil if the dataset of that ID is what a complete call would have made.
func (z *zfs) madeBefore(ctx context.Context, id string, origins []string, cause error) error {
	values, err := command.Properties(ctx, z.dataset(id), "origin", storeProperty)
	if err != nil {
		return errors.Join(cause, err)
	}
	if len(origins) == 0 {
		origins = []string{"-"}
	}
	if values[1] == z.uuid && slices.Contains(origins, values[0]) {
		return nil
	}
	return fmt.Errorf("%w: it is not this layer's: %w", cause, errdefs.ErrAlreadyExists)
}

// Seal makes the snapshot that children are clones of. The snapshot of an earlier call that was not noted
// makes way: the layer may have been written to since.
func (z *zfs) Seal(ctx context.Context, l backend.Layer) error {
	if err := z.seal(ctx, z.dataset(l.ID)); err != nil {
		return err
	}
	return failpoint.Hit("zfs.seal.snapshot-made")
}

func (z *zfs) seal(ctx context.Context, dataset string) error {
	snap := snapshot(dataset)
	err := z.device.Snapshot(snap)
	if !errdefs.IsAlreadyExists(err) {
		return err
	}
	if err := z.device.Destroy(snap, false); errors.Is(err, unix.EEXIST) {
		// A child that has no record either. It keeps what it is made of.
		if _, err := command.Run(ctx, "zfs", "rename", snap, snap+"-"+suffix()); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	return z.device.Snapshot(snap)
}

// SyncCreated has nothing to do: the kernel answers when the transaction group that holds the new dataset is on disk.
func (z *zfs) SyncCreated(context.Context, backend.Layer) error { return nil }

// SyncContent waits until the pool's open transaction group is on disk. So does every snapshot.
func (z *zfs) SyncContent(ctx context.Context, l backend.Layer) error {
	_, err := command.Run(ctx, "zpool", "sync", device.PoolName(z.parent))
	return err
}

// Mounts describes the mount of the dataset. Layers of additional stores are looked for by asking zfs.
func (z *zfs) Mounts(ctx context.Context, l backend.Layer, o backend.MountOptions) ([]backend.Mount, error) {
	dataset, err := z.find(ctx, l.ID)
	if err != nil {
		return nil, err
	}
	m := backend.Mount{Type: "zfs", Source: dataset, Options: slices.Clone(z.config.MountOpt)}
	if o.ReadOnly {
		m.Options = append(m.Options, "ro")
	}
	if o.Label != "" {
		m.Options = append(m.Options, "context="+o.Label)
	}
	return []backend.Mount{m}, nil
}

// find returns a layer's dataset. It asks zfs only if there is more than one place to look.
func (z *zfs) find(ctx context.Context, id string) (string, error) {
	if err := backend.CheckID(id); err != nil {
		return "", err
	}
	if len(z.others) == 0 {
		return z.dataset(id), nil
	}
	var err error
	for _, parent := range append([]string{z.parent}, z.others...) {
		_, err = command.Properties(ctx, parent+"/"+id, "type")
		if !errdefs.IsNotFound(err) {
			return parent + "/" + id, err
		}
	}
	return "", err
}

// Usage returns how much of what the layer refers to its parent does not (the property written@...), as of the last
// transaction group: what was written within the last seconds may be missing. Inodes are not counted.
func (z *zfs) Usage(ctx context.Context, l backend.Layer) (backend.Usage, error) {
	size, err := z.usage(ctx, l)
	return backend.Usage{Size: size}, err
}

func (z *zfs) usage(ctx context.Context, l backend.Layer) (int64, error) {
	dataset, err := z.find(ctx, l.ID)
	if err != nil {
		return 0, err
	}
	if l.Parent() == "" {
		return command.Number(ctx, dataset, "referenced")
	}
	parent, err := z.find(ctx, l.Parent())
	if err != nil {
		return 0, err
	}
	size, err := command.Number(ctx, dataset, "written@"+snapshot(parent))
	if !errdefs.IsNotFound(err) {
		return size, err
	}
	from, err := z.origin(ctx, dataset, parent)
	switch {
	case err != nil:
		return 0, err
	case from == "":
		return command.Number(ctx, dataset, "referenced")
	}
	return command.Number(ctx, dataset, "written@"+from)
}

// origin returns the snapshot of the dataset parent from which the other dataset has gone its own way, "" if it does
// not descend from it.
func (z *zfs) origin(ctx context.Context, dataset, parent string) (string, error) {
	for range maxClones {
		values, err := command.Properties(ctx, dataset, "origin")
		if err != nil {
			return "", err
		}
		from, _, ok := strings.Cut(values[0], "@")
		switch {
		case !ok:
			return "", nil
		case from == parent:
			return values[0], nil
		}
		dataset = from // a clone of a layer with the same parent
	}
	return "", nil
}

// maxClones bounds how many clones of clones may lie between a layer and its parent.
const maxClones = 64

// SetLimit sets the dataset's quota, which counts what was written to the layer and not what its parents
// hold. Writing beyond it is EDQUOT.
func (z *zfs) SetLimit(ctx context.Context, l backend.Layer, bytes int64) error {
	quota := "quota=none"
	if bytes > 0 {
		quota = "quota=" + strconv.FormatInt(bytes, 10)
	}
	_, err := command.Run(ctx, "zfs", "set", quota, z.dataset(l.ID))
	return err
}

// Check finds a sealed layer whose snapshot somebody has destroyed, so that it could have no more children. Repair makes
// another.
func (z *zfs) Check(ctx context.Context, l backend.Layer, repair bool) error {
	if !l.Sealed {
		return nil
	}
	snap := snapshot(z.dataset(l.ID))
	there, err := z.device.Exists(snap)
	switch {
	case err != nil || there:
		return err
	case !repair:
		return fmt.Errorf("somebody has destroyed its snapshot %s, of which children are made: %w", snap, errdefs.ErrFailedPrecondition)
	}
	return z.device.Snapshot(snap)
}

// Describe returns the dataset and what it is a clone of, under the names that Docker's own zfs driver uses.
func (z *zfs) Describe(ctx context.Context, l backend.Layer) ([]backend.Field, error) {
	dataset, err := z.find(ctx, l.ID)
	if err != nil {
		return nil, err
	}
	values, err := command.Properties(ctx, dataset, "origin")
	if err != nil {
		return nil, err
	}
	fields := []backend.Field{{Name: "Dataset", Value: dataset}}
	if values[0] != "-" {
		fields = append(fields, backend.Field{Name: "Origin", Value: values[0]})
	}
	return fields, nil
}
