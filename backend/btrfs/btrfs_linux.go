package btrfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strata/backend"
	"strata/backend/btrfs/changed"
	"strata/backend/btrfs/ioctl"
	"strata/backend/internal/dirfd"
	"strata/backend/internal/failpoint"
	"strata/backend/internal/layerdir"
	"strata/backend/internal/layertar/dirsink"
	"strata/backend/internal/tree"
)

// What this backend can do besides the three methods.
var (
	_ backend.Backend  = (*btrfs)(nil)
	_ backend.Sealer   = (*btrfs)(nil)
	_ backend.Placer   = (*btrfs)(nil)
	_ backend.Narrower = (*btrfs)(nil)
	_ backend.Meter    = (*btrfs)(nil)
	_ backend.Limiter  = (*btrfs)(nil)
	_ backend.Cloner   = (*btrfs)(nil)
	_ backend.Syncer   = (*btrfs)(nil)
	_ backend.Checker  = (*btrfs)(nil)
	_ backend.Lister   = (*btrfs)(nil)
	_ backend.Reporter = (*btrfs)(nil)
)

// btrfs is immutable, so that its methods may be called concurrently.
type btrfs struct{ layerdir.Dirs }

// New makes the backend. It changes nothing on disk. ErrFailedPrecondition if Home does not lie on btrfs.
func New(_ context.Context, env backend.Env, _ *Config) (backend.Backend, error) {
	home, err := dirfd.Open(env.Home)
	if err != nil {
		return nil, err
	}
	defer home.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(home.FD, &st); err != nil {
		return nil, &os.PathError{Op: "statfs", Path: env.Home, Err: err}
	}
	if uint32(st.Type) != unix.BTRFS_SUPER_MAGIC {
		return nil, fmt.Errorf("%s does not lie on a btrfs file system (its type is %#x): choose another root directory or another backend: %w",
			env.Home, uint32(st.Type), errdefs.ErrFailedPrecondition)
	}
	if _, err := ioctl.SubvolumeOf(home.FD); err != nil {
		return nil, fmt.Errorf("%s: btrfs of Linux 4.18 or later is needed: %w", env.Home, err)
	}
	return &btrfs{layerdir.Dirs{Env: env}}, nil
}

// Create makes a snapshot of the nearest parent, or an empty subvolume. What an unfinished call left is removed first.
func (b *btrfs) Create(ctx context.Context, l backend.Layer) error {
	return b.make(ctx, l, l.Parent())
}

// Clone makes a snapshot of the template.
func (b *btrfs) Clone(ctx context.Context, l, template backend.Layer) error {
	return b.make(ctx, l, template.ID)
}

// make makes l a copy of another layer, or an empty one if there is none.
func (b *btrfs) make(ctx context.Context, l backend.Layer, other string) error {
	if _, err := b.Path(l.ID); err != nil {
		return err
	}
	home, err := dirfd.Open(b.Env.Home)
	if err != nil {
		return err
	}
	defer home.Close()
	if l.Limit > 0 {
		if err := requireQuota(ctx, home.FD); err != nil {
			return err
		}
	}
	if err := destroy(ctx, home, l.ID); err != nil {
		return err
	}
	if other == "" {
		err = makeBase(home, l.ID)
	} else {
		err = b.makeCopy(ctx, home, l.ID, other)
	}
	if err == nil {
		err = failpoint.Hit("btrfs.create.subvolume-made")
	}
	if err == nil && l.Limit > 0 {
		err = b.limit(l.ID, l.Limit)
	}
	if err != nil {
		// What is there is useless; if it cannot be removed now, the store's Remove will say so.
		_ = b.Remove(context.WithoutCancel(ctx), l)
	}
	return err
}

func makeBase(home dirfd.Dir, id string) error {
	if err := ioctl.CreateSubvolume(home.FD, id); err != nil {
		return err
	}
	d, err := home.Open(id)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Fchmod(d.FD, 0o755); err != nil {
		return &os.PathError{Op: "chmod", Path: d.Path, Err: err}
	}
	return nil
}

func (b *btrfs) makeCopy(ctx context.Context, home dirfd.Dir, id, other string) error {
	source, err := b.open(other)
	if err != nil {
		return err
	}
	defer source.Close()
	err = ioctl.CreateSnapshot(home.FD, id, source.FD)
	if errors.Is(err, unix.EXDEV) {
		// The parent belongs to an additional store on another file system.
		if err := ioctl.CreateSubvolume(home.FD, id); err != nil {
			return err
		}
		return tree.Copy(ctx, source.Path, filepath.Join(b.Env.Home, id))
	}
	if err != nil {
		return err
	}
	d, err := home.Open(id)
	if err != nil {
		return err
	}
	defer d.Close()
	return snapshotNested(ctx, source, d)
}

// Remove deletes the subvolume, those inside it, and their qgroups.
func (b *btrfs) Remove(ctx context.Context, l backend.Layer) error {
	if _, err := b.Path(l.ID); err != nil {
		return err
	}
	home, err := dirfd.Open(b.Env.Home)
	if err != nil {
		return err
	}
	defer home.Close()
	return destroy(ctx, home, l.ID)
}

// SyncCreated has nothing to do for a snapshot, which the kernel commits when it is made
// (fs/btrfs/ioctl.c, create_snapshot). An empty subvolume it may not, but a sync of its directory makes
// it. A copy from an additional store, which may be another file system, and a limit take the whole
// file system.
func (b *btrfs) SyncCreated(ctx context.Context, l backend.Layer) error {
	if l.Limit > 0 || len(b.Env.Stores) > 0 {
		return dirsink.Flush(ctx, b.Env.Home)
	}
	if len(l.Parents) > 0 {
		return nil
	}
	return tree.Sync(filepath.Join(b.Env.Home, l.ID), b.Env.Home)
}

// Seal makes the subvolume read-only, for every mount of it.
func (b *btrfs) Seal(_ context.Context, l backend.Layer) error { return b.setReadOnly(l.ID, true) }

// Mounts describes the bind mount of the subvolume. A layer that was sealed, but not noted as such, can be written to again.
func (b *btrfs) Mounts(ctx context.Context, l backend.Layer, o backend.MountOptions) ([]backend.Mount, error) {
	if !l.Sealed && !o.ReadOnly {
		if err := b.setReadOnly(l.ID, false); err != nil {
			return nil, err
		}
	}
	return b.Dirs.Mounts(ctx, l, o)
}

func (b *btrfs) setReadOnly(id string, readOnly bool) error {
	d, err := b.open(id)
	if err != nil {
		return err
	}
	defer d.Close()
	return ioctl.SetReadOnly(d.FD, readOnly)
}

// Narrow finds what was touched since the snapshot was made, as the package comment describes. What has not reached the
// disk is written first, by whichever layer it is: btrfs has no call to flush one subvolume.
func (b *btrfs) Narrow(ctx context.Context, l backend.Layer, _, _ string) (func(dev, ino uint64) bool, error) {
	upper, err := b.open(l.ID)
	if err != nil {
		return nil, err
	}
	defer upper.Close()
	lower, err := b.open(l.Parent())
	if err != nil {
		return nil, err
	}
	defer lower.Close()
	s, err := changed.SnapshotOf(ctx, upper, lower)
	if s == nil || err != nil {
		return nil, err
	}
	return s.Unchanged(ctx)
}

// Usage adds up the extents and inodes that are younger than the snapshot. What has not reached the disk
// is written first.
func (b *btrfs) Usage(ctx context.Context, l backend.Layer) (backend.Usage, error) {
	upper, err := b.open(l.ID)
	if err != nil {
		return backend.Usage{}, err
	}
	defer upper.Close()
	if err := ioctl.Sync(upper.FD); err != nil {
		return backend.Usage{}, err
	}
	var since uint64
	if len(l.Parents) > 0 {
		if since, err = b.made(ctx, upper, l.Parent()); err != nil {
			return backend.Usage{}, err
		}
	}
	m := meter{fd: upper.FD, counted: map[uint64]struct{}{}}
	info, err := ioctl.SubvolumeOf(upper.FD)
	if err != nil {
		return backend.Usage{}, err
	}
	if err := m.subvolume(ctx, info.ID, since); err != nil {
		return backend.Usage{}, err
	}
	return m.sum, nil
}

// SetLimit limits what the layer has for itself (the qgroup's exclusive bytes). ErrNotImplemented if the
// file system has no quotas. Writing beyond it is EDQUOT.
func (b *btrfs) SetLimit(ctx context.Context, l backend.Layer, bytes int64) error {
	d, err := b.open(l.ID)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := requireQuota(ctx, d.FD); err != nil {
		return err
	}
	return ioctl.SetLimit(d.FD, bytes)
}

func (b *btrfs) limit(id string, bytes int64) error {
	d, err := b.open(id)
	if err != nil {
		return err
	}
	defer d.Close()
	return ioctl.SetLimit(d.FD, bytes)
}

// Check finds a layer that is no subvolume (ErrDataLoss: it was copied here by something that knows only
// files), and parents that lost their read-only property, which repair gives back.
func (b *btrfs) Check(_ context.Context, l backend.Layer, repair bool) error {
	d, err := b.open(l.ID)
	if err != nil {
		return err
	}
	d.Close()
	for _, p := range l.Parents {
		if err := b.checkParent(p.ID, repair); err != nil {
			return err
		}
	}
	return nil
}

func (b *btrfs) checkParent(id string, repair bool) error {
	d, err := b.open(id)
	if errdefs.IsNotFound(err) {
		return nil // the store finds missing layers
	}
	if err != nil {
		return err
	}
	defer d.Close()
	sealed, err := ioctl.ReadOnly(d.FD)
	if err != nil || sealed || filepath.Dir(d.Path) != b.Env.Home { // other stores are not ours to mend
		return err
	}
	if repair {
		return ioctl.SetReadOnly(d.FD, true)
	}
	return fmt.Errorf("its parent %s is not read-only: %w", id, errdefs.ErrFailedPrecondition)
}

// Report tells whether limits are possible.
func (b *btrfs) Report(ctx context.Context) ([]backend.Field, error) {
	home, err := dirfd.Open(b.Env.Home)
	if err != nil {
		return nil, err
	}
	defer home.Close()
	q, err := ioctl.QuotaOf(ctx, home.FD)
	if err != nil {
		return nil, err
	}
	return []backend.Field{{Name: "Quotas", Value: q.String()}}, nil
}

// open opens a layer's root directory. ErrDataLoss if it is no subvolume.
func (b *btrfs) open(id string) (dirfd.Dir, error) {
	path, err := b.Find(id)
	if err != nil {
		return dirfd.Dir{}, err
	}
	d, err := dirfd.Open(path)
	if err != nil {
		return dirfd.Dir{}, err
	}
	is, err := isSubvolume(d)
	if err == nil && !is {
		err = fmt.Errorf("%s is a directory, not a subvolume: %w", path, errdefs.ErrDataLoss)
	}
	if err != nil {
		d.Close()
		return dirfd.Dir{}, err
	}
	return d, nil
}

// isSubvolume tells whether d is the root directory of a subvolume.
func isSubvolume(d dirfd.Dir) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(d.FD, &st); err != nil {
		return false, &os.PathError{Op: "stat", Path: d.Path, Err: err}
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(d.FD, &fs); err != nil {
		return false, &os.PathError{Op: "statfs", Path: d.Path, Err: err}
	}
	return st.Ino == ioctl.RootDir && uint32(fs.Type) == unix.BTRFS_SUPER_MAGIC, nil
}
