package cli

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"strata/plugin/control"
)

func (s *session) usage() *cobra.Command {
	return &cobra.Command{
		Use:   "usage [NAME]...",
		Short: "Show what layers themselves occupy on disk, parents not counted",
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.with(cmd.Context(), false, func(t *target) error {
				list, err := s.measure(cmd.Context(), t, args)
				if err != nil {
					return err
				}
				return s.print(emptyNotNull(list), func(w io.Writer) { usages(w, list) })
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
	row(w, "NAME", "SIZE", "INODES")
	var total control.LayerUsage
	for _, u := range list {
		row(w, short(u.Name), size(u.Size), u.Inodes)
		total.Size += u.Size
		total.Inodes += u.Inodes
	}
	row(w, "total", size(total.Size), total.Inodes)
}
