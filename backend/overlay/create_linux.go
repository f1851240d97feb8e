package overlay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

	"strata/backend"
	"strata/backend/internal/dirfd"
	"strata/backend/internal/failpoint"
	"strata/backend/internal/probe"
	"strata/backend/internal/tree"
)

// Create makes the layer's directories. What an unfinished call left is removed first.
func (o *overlay) Create(ctx context.Context, l backend.Layer) error {
	return o.create(ctx, l, func(diff string) error { return o.makeRoot(l, diff) })
}

// create makes a layer whose upper directory fill makes.
func (o *overlay) create(ctx context.Context, l backend.Layer, fill func(diff string) error) error {
	if len(l.Parents) >= maxLowers {
		return fmt.Errorf("%d layers below, overlay takes %d: %w", len(l.Parents), maxLowers-1, errdefs.ErrInvalidArgument)
	}
	if l.Limit > 0 && o.projects == nil {
		return o.noQuota
	}
	if err := o.Remove(ctx, l); err != nil {
		return err
	}
	dir := filepath.Join(o.Env.Home, l.ID)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if l.Limit > 0 { // before there is anything in it, so that everything inherits the project
		if err := o.projects.Limit(ctx, dir, l.Limit); err != nil {
			return err
		}
	}
	if err := failpoint.Hit("overlay.create.directory-made"); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(dir, workDir), 0o700); err != nil {
		return err
	}
	if err := fill(filepath.Join(dir, diffDir)); err != nil {
		return err
	}
	return failpoint.Hit("overlay.create.filled")
}

// makeRoot makes the upper directory, which is the root of the mounted layer. Its owner is the one that
// the parent's has on disk, whatever the layer's ID map: MapIDs comes later.
func (o *overlay) makeRoot(l backend.Layer, diff string) error {
	if err := os.Mkdir(diff, 0o755); err != nil {
		return err
	}
	if len(l.Parents) == 0 {
		return os.Chmod(diff, 0o755) //nolint:gosec // as open as a root directory is; umask notwithstanding
	}
	parent, err := o.Find(l.Parents[0].ID)
	if err != nil {
		return err
	}
	return o.copyRoot(filepath.Join(parent, diffDir), diff)
}

// copyRoot gives the directory to the owner, extended attributes and mode of from. Marks of overlayfs are not part of
// them.
func (o *overlay) copyRoot(from, to string) error {
	source, err := dirfd.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	made, err := dirfd.Open(to)
	if err != nil {
		return err
	}
	defer made.Close()
	st, err := source.Self().Stat()
	if err != nil {
		return err
	}
	return tree.CopyAttributes(source.Self(), made.Self(), &st, o.marks.IsNone)
}

// Remove deletes the layer's directories, and drops its size limit.
func (o *overlay) Remove(ctx context.Context, l backend.Layer) error {
	dir := filepath.Join(o.Env.Home, l.ID)
	if o.projects != nil {
		if err := o.projects.Remove(dir); err != nil {
			return err
		}
	}
	return tree.RemoveAll(ctx, dir)
}

// Clone copies the template's upper directory, by reflink where the file system can. The owners in it
// are the template's, and so is the way in which it shows its parents' owners.
func (o *overlay) Clone(ctx context.Context, l, template backend.Layer) error {
	from, err := o.Find(template.ID)
	if err != nil {
		return err
	}
	return o.create(ctx, l, func(diff string) error {
		if err := tree.Copy(ctx, filepath.Join(from, diffDir), diff); err != nil {
			return err
		}
		_, err := os.Lstat(filepath.Join(from, idMappedFile))
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return os.WriteFile(o.own(l.ID, idMappedFile), nil, 0o600)
	})
}

// SyncCreated syncs the directories that Create made. That makes their own names durable, too, as they
// are new: btrfs logs the names of a new inode with it. A sync of the home directory would write down
// names of other layers, too, perhaps before the store's records of them.
func (o *overlay) SyncCreated(_ context.Context, l backend.Layer) error {
	return tree.Sync(o.own(l.ID, diffDir), filepath.Join(o.Env.Home, l.ID))
}

// SetLimit changes how large the layer may become. ErrNotImplemented without project quota.
func (o *overlay) SetLimit(ctx context.Context, l backend.Layer, limit int64) error {
	if o.projects == nil {
		return o.noQuota
	}
	return o.projects.Limit(ctx, filepath.Join(o.Env.Home, l.ID), limit)
}

// MapIDs notes that parents with another ID map are to be shown with the layer's own; the owners in the
// layer itself are the caller's to change. ErrNotImplemented where there are no idmapped mounts: the
// layer then shows its parents' owners as they are, and can be mounted to change those of all files.
func (o *overlay) MapIDs(ctx context.Context, l backend.Layer) error {
	if err := o.probe.Test(ctx, probe.IDMap); err != nil {
		return err
	}
	return os.WriteFile(o.own(l.ID, idMappedFile), nil, 0o600)
}
