package cli

import (
	"io"
	"sync"

	"github.com/spf13/cobra"

	"strata/backend/store"
)

func (s *session) check() *cobra.Command {
	var o store.CheckOptions
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Look for damage; exit code 3 if there is any that is not repaired",
		Args:  arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.with(cmd.Context(), o.Repair, func(t *target) error {
				p := s.progress()
				var mu sync.Mutex // serialises p: a store may check several layers at once
				o.Progress = func(done, total int) {
					mu.Lock()
					defer mu.Unlock()
					p.show("%d of %d layers checked", done, total)
				}
				found, err := t.Check(cmd.Context(), o)
				p.done()
				if err != nil {
					return err
				}
				if err := s.print(emptyNotNull(found), func(w io.Writer) { findings(w, found) }); err != nil {
					return err
				}
				return unrepaired(found)
			})
		},
	}
	cmd.Flags().BoolVar(&o.Deep, "deep", false, "read every layer that was filled from a tar and compare it with its digest")
	cmd.Flags().BoolVar(&o.Repair, "repair", false, "mend what can be mended without guessing")
	return cmd
}

func findings(w io.Writer, found []store.Finding) {
	if len(found) == 0 {
		row(w, "no damage found")
		return
	}
	row(w, "WHAT", "LAYER", "DETAIL", "REPAIRED")
	for _, f := range found {
		row(w, f.Kind, orDash(short(f.Layer)), f.Detail, orDash(f.Repaired))
	}
}

func unrepaired(found []store.Finding) error {
	for _, f := range found {
		if f.Repaired == "" && !f.Kind.Harmless() {
			return errFindings
		}
	}
	return nil
}
