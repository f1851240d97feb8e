package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"strata/plugin"
	"strata/plugin/control"
)

func (s *session) usage() *cobra.Command {
	return &cobra.Command{
		Use:   "usage [NAME]...",
		Short: "Show what layers themselves occupy on disk, parents not counted",
		Long: `Show what layers themselves occupy on disk, parents not counted.

ON DISK are the bytes that the layer has for itself: what it shares with its parent counts for the parent alone. The backend
tells what that is: overlay adds up the blocks of the layer's files, btrfs the extents that are younger than the
parent's, zfs what is written since the parent. A layer of vfs is a whole copy and counts as such, together with blocks that it shares with
its parent (reflinks), so that the total can be more than the disk holds.

Without names, removed layers are listed as well, as long as their data is there:
it is deleted in the background, or kept until the last child is gone.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.with(cmd.Context(), false, func(t *target) error {
				list, err := s.measure(cmd.Context(), t, args)
				if err != nil {
					return err
				}
				if err := s.print(emptyNotNull(list), func(w io.Writer) { usages(w, list) }); err != nil {
					return err
				}
				return unmeasured(list)
			})
		},
	}
}

// measure measures the layers that are named, or else all.
func (s *session) measure(ctx context.Context, t *target, names []string) ([]control.LayerUsage, error) {
	var list []control.LayerUsage
	p := s.progress()
	defer p.done()
	for _, name := range names {
		l, err := t.find(ctx, name)
		if err != nil {
			return nil, err
		}
		u, err := t.Usage(ctx, l.Name)
		if err != nil {
			return nil, err
		}
		list = append(list, control.LayerUsage{Name: l.Name, Size: u.Size, Inodes: u.Inodes})
	}
	if len(names) > 0 {
		return list, nil
	}
	err := t.usages(ctx, func(u control.LayerUsage) error {
		list = append(list, u)
		p.show("%d layers measured", len(list))
		return nil
	})
	return list, err
}

func usages(w io.Writer, list []control.LayerUsage) {
	row(w, "NAME", "ON DISK", "INODES", "REMOVED")
	var total control.LayerUsage
	for _, u := range list {
		if u.Damaged != "" {
			row(w, short(u.Name), "-", "-", "-")
			continue
		}
		row(w, short(u.Name), size(u.Size), u.Inodes, orDash(u.Removed))
		total.Size += u.Size
		total.Inodes += u.Inodes
	}
	row(w, "total", size(total.Size), total.Inodes, "-")
}

// unmeasured returns an error if damaged layers are among those that were to be measured.
func unmeasured(list []control.LayerUsage) error {
	n := 0
	for _, u := range list {
		if u.Damaged != "" {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	return fmt.Errorf("not all could be measured: %s: %w", plugin.Damaged(n)[0], errdefs.ErrDataLoss)
}
