package overlay

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strata/backend"
	"strata/backend/internal/layertar/dirsink"
)

// Rebase settles what unpacking had to leave open as long as it was not known what is below: whiteouts that hide nothing,
// directories that the tar implied. The root gets the properties of the nearest parent's, as Create would have given it,
// unless somebody gave it others.
func (o *overlay) Rebase(ctx context.Context, l backend.Layer) error {
	if len(l.Parents) >= maxLowers {
		return fmt.Errorf("%d layers below, overlay takes %d: %w", len(l.Parents), maxLowers-1, errdefs.ErrInvalidArgument)
	}
	diff := filepath.Join(o.Env.Home, l.ID, diffDir)
	err := dirsink.Settle(ctx, diff, dirsink.Options{Whiteouts: o.marks.Kind, Marks: o.marks.Kind, IDMap: l.IDMap, Below: o.below(l)})
	if err != nil || len(l.Parents) == 0 {
		return err
	}
	parent, err := o.Find(l.Parents[0].ID)
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
	return o.copyRoot(filepath.Join(parent, diffDir), diff)
}
