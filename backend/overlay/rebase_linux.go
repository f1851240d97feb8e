package overlay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strata/backend"
	"strata/backend/internal/tree"
)

// Rebase has next to nothing to do on top of parents, for the upper directory says what changed in any: the root gets the
// properties of the nearest parent's, as Create would have given it, unless somebody gave it others. Without parents,
// whiteouts and opaque marks go: they mean nothing, and nothing hides them.
func (o *overlay) Rebase(ctx context.Context, l backend.Layer) error {
	if err := o.rebase(ctx, l); err != nil {
		return fmt.Errorf("rebase layer %s: %w", l.ID, err)
	}
	return nil
}

func (o *overlay) rebase(ctx context.Context, l backend.Layer) error {
	if len(l.Parents) >= maxLowers {
		return fmt.Errorf("%d layers below, overlay takes %d: %w", len(l.Parents), maxLowers-1, errdefs.ErrInvalidArgument)
	}
	diff := filepath.Join(o.env.Home, l.ID, diffDir)
	if len(l.Parents) == 0 {
		d, err := tree.Open(diff)
		if err != nil {
			return err
		}
		defer d.Close()
		return o.dropMarks(ctx, d)
	}
	parent, err := o.find(l.Parents[0].ID)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(diff, &st); err != nil {
		return &os.PathError{Op: "stat", Path: diff, Err: err}
	}
	uid, gid, err := l.IDMap.Root()
	if err != nil {
		return err
	}
	if st.Mode&0o7777 != 0o755 || st.Uid != uid || st.Gid != gid {
		return nil
	}
	return copyRoot(filepath.Join(parent, diffDir), diff)
}

// dropMarks removes all whiteouts and opaque marks in a directory and those below it. Where the file system tells types with
// names it looks at directories and devices only.
func (o *overlay) dropMarks(ctx context.Context, d tree.Dir) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := unix.Fremovexattr(d.FD, o.marks().prefix+markOpaque)
	if err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP) {
		return &os.PathError{Op: "remove opaque mark of", Path: d.Path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(d.FD, &st); err != nil {
		return &os.PathError{Op: "stat", Path: d.Path, Err: err}
	}
	entries, err := d.Entries()
	if err != nil {
		return err
	}
	dropped := false
	for _, e := range entries {
		gone, err := o.dropMarksOf(ctx, d, e)
		if err != nil {
			return err
		}
		dropped = dropped || gone
	}
	if !dropped {
		return nil
	}
	times := []unix.Timespec{st.Atim, st.Mtim}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, d.Proc("."), times, 0); err != nil {
		return &os.PathError{Op: "set times of", Path: d.Path, Err: err}
	}
	return nil
}

// dropMarksOf does what dropMarks does for one name, and reports whether it is gone.
func (o *overlay) dropMarksOf(ctx context.Context, d tree.Dir, e tree.Entry) (gone bool, err error) {
	switch e.Type {
	case unix.DT_DIR, unix.DT_CHR, unix.DT_UNKNOWN:
	default:
		return false, nil
	}
	f, err := lstat(d, e.Name)
	switch {
	case err != nil || f == nil:
		return false, err
	case f.isDevice0():
		if err := unix.Unlinkat(d.FD, e.Name, 0); err != nil {
			return false, &os.PathError{Op: "remove", Path: f.Path(), Err: err}
		}
		return true, nil
	case f.Kind() == unix.S_IFDIR:
		sub, err := d.Open(e.Name)
		if err != nil {
			return false, err
		}
		defer sub.Close()
		return false, o.dropMarks(ctx, sub)
	}
	return false, nil
}
