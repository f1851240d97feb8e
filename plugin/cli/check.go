package cli

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/spf13/cobra"

	"strata/backend/store"
	"strata/plugin"
)

func (s *session) check() *cobra.Command {
	var o store.CheckOptions
	var c comparison
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Look for damage; exit code 3 if there is any that is not repaired",
		Long: `Look for damage; exit code 3 if there is any that is not repaired.

--repair changes what it can without guessing, and nothing that somebody makes, fills or uses meanwhile:
  - a layer's record is written anew if one bit of it is wrong, if it was edited, or if it was damaged while Strata runs,
  - what belongs to no layer is moved to damaged/ in the store,
  - of two layers with one name the one that is not in use is called by its ID,
  - layers that were left half made are removed, and records without data that no layer stands on, of which damaged/ keeps a copy.

--deep also reads image layers and compares each with the digest of the tar that it came from. Strata keeps that of the layers that Docker
has filled, in a store with exact diffs, and not that of containerd's layers.

With --docker-root and --containerd-root the store is also compared with the records of these: layers that they have
written down and the store lacks are named, with the images and containers that need them. Many at once
speak of a disk that is not mounted, or of another store than the right one. Docker with containerd's image store
(28, 29) may run a containerd of its own, whose root is containerd/daemon in Docker's.`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.containerdRoot == "" && cmd.Flags().Changed("snapshotter") {
				return usageError{errors.New("--snapshotter is about containerd's record: say --containerd-root, too")}
			}
			return s.with(cmd.Context(), o.Repair, func(t *target) error {
				lost, err := c.lost(cmd.Context(), t)
				if err != nil {
					return err
				}
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
				found = append(found, lost...)
				if err := s.print(emptyNotNull(found), func(w io.Writer) { findings(w, found) }); err != nil {
					return err
				}
				return unrepaired(found)
			})
		},
	}
	cmd.Flags().BoolVar(&o.Deep, "deep", false, "read every layer whose tar's digest is known, and compare it with that")
	cmd.Flags().BoolVar(&o.Repair, "repair", false, "mend what can be mended without guessing")
	cmd.Flags().StringVar(&c.dockerRoot, "docker-root", "", "Docker's data root, such as /var/lib/docker, to compare with")
	cmd.Flags().StringVar(&c.containerdRoot, "containerd-root", "", "containerd's root directory, such as /var/lib/containerd, to compare with")
	cmd.Flags().StringVar(&c.snapshotter, "snapshotter", "strata", "with --containerd-root: what containerd's configuration calls this store")
	return cmd
}

// comparison says which records the store is compared with.
type comparison struct{ dockerRoot, containerdRoot, snapshotter string }

// lost lists the layers that the records have and the store lacks.
func (c comparison) lost(ctx context.Context, t *target) (found []store.Finding, err error) {
	if c.dockerRoot != "" {
		if found, err = t.lost(ctx, func() (record, error) { return dockerRecord(c.dockerRoot) }); err != nil {
			return nil, err
		}
	}
	if c.containerdRoot == "" {
		return found, nil
	}
	more, err := t.lost(ctx, func() (record, error) { return containerdRecord(c.containerdRoot, c.snapshotter) })
	return append(found, more...), err
}

func findings(w io.Writer, found []store.Finding) {
	if len(found) == 0 {
		row(w, "no damage found")
		return
	}
	row(w, "WHAT", "LAYER", "REPAIRED", "DETAIL") // the long one last: what it is padded to would push others off the screen
	for _, f := range found {
		detail := plugin.Plain(f.Detail)
		if f.Repaired != "" {
			detail += "; repaired: " + f.Repaired
		}
		row(w, f.Kind, orDash(short(f.Layer)), yesNo(f.Repaired != ""), detail)
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
