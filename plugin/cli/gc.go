package cli

import (
	"context"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"strata/backend/store"
	"strata/plugin/snapshotter"
)

// minAge is how old a layer must be to count as an orphan by default. Docker writes a layer down
// only when it is complete, and a large one takes a while to pull and unpack.
const minAge = time.Hour

func (s *session) gc() *cobra.Command {
	var yes bool
	var dockerRoot string
	var older time.Duration
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "List layers that nobody needs any more, and remove them with --yes; exit code 3 if some remain",
		Long: `List layers that nobody needs any more, and remove them with --yes.

Without --docker-root only what the store itself can tell is listed. With it the store is compared
with Docker's own record of its layers, and with BuildKit's of its own. Without the latter BuildKit's
layers (names of 25 characters) are listed, but never removed.`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.with(cmd.Context(), yes, func(t *target) error {
				o := store.GCOptions{Yes: yes}
				var doubtful []store.Orphan
				if dockerRoot != "" {
					var err error
					if o.Known, doubtful, err = compare(cmd.Context(), t, dockerRoot, older); err != nil {
						return err
					}
				}
				orphans, err := t.GC(cmd.Context(), o)
				if err != nil {
					return err
				}
				orphans = append(orphans, doubtful...)
				if err := s.print(emptyNotNull(orphans), func(w io.Writer) { printOrphans(w, orphans) }); err != nil {
					return err
				}
				return remaining(orphans)
			})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&yes, "yes", false, "remove what is listed")
	f.StringVar(&dockerRoot, "docker-root", "", "Docker's data root, such as /var/lib/docker, to compare with")
	f.DurationVar(&older, "older-than", minAge, "with --docker-root: pass over younger layers, which Docker may be about to write down")
	return cmd
}

// compare returns the names that are to be kept, and the layers that nothing can be said about.
func compare(ctx context.Context, t *target, dockerRoot string, older time.Duration) (map[string]bool, []store.Orphan, error) {
	// The store first: a layer that Docker makes and writes down meanwhile is then not in the list.
	list, err := t.List(ctx)
	if err != nil {
		return nil, nil, err
	}
	docker, snapshots, err := dockerLayers(dockerRoot)
	if err != nil {
		return nil, nil, err
	}
	keep, doubtful := judge(list, docker, snapshots, time.Now().Add(-older))
	return keep, doubtful, nil
}

// judge decides which layers must stay: those that Docker knows, that are in use or in the making,
// that are younger than the deadline, containerd's, and all that any of these stand on. If docker lacks BuildKit's
// snapshots, these stay as well; they are the second result.
func judge(list []store.Info, docker map[string]bool, snapshots bool, deadline time.Time) (map[string]bool, []store.Orphan) {
	keep := make(map[string]bool, len(docker))
	for name := range docker {
		keep[name] = true
	}
	parents := make(map[string]string, len(list))
	var doubtful []store.Orphan
	for _, l := range list {
		parents[l.Name] = l.Parent
		busy := l.Mounts > 0 || l.State != store.StateReady || l.Created.After(deadline)
		switch {
		case keep[l.Name]:
		case strings.HasPrefix(l.Name, snapshotter.Prefix): // containerd removes by itself what it does not know
			keep[l.Name] = true
		case busy:
			keep[l.Name] = true
		case !snapshots && buildKit(l.Name):
			keep[l.Name] = true
			doubtful = append(doubtful, store.Orphan{Name: l.Name, ID: l.ID, Reason: "BuildKit's, whose record (buildkit/snapshots.db) is missing, so it stays"})
		}
	}
	for _, l := range list {
		for p := l.Parent; keep[l.Name] && p != "" && !keep[p]; p = parents[p] {
			keep[p] = true
		}
	}
	return keep, doubtful
}

// buildKit recognises a snapshot's name: 25 characters of base 36 (buildkit identity.NewID).
func buildKit(name string) bool {
	const length = 25
	return len(name) == length && !slices.ContainsFunc([]byte(name), func(c byte) bool {
		return (c < '0' || c > '9') && (c < 'a' || c > 'z')
	})
}

func printOrphans(w io.Writer, orphans []store.Orphan) {
	if len(orphans) == 0 {
		row(w, "no orphans found")
		return
	}
	row(w, "NAME", "ID", "WHY", "REMOVED")
	for _, o := range orphans {
		row(w, orDash(short(o.Name)), o.ID, o.Reason, yesNo(o.Removed))
	}
}

func remaining(orphans []store.Orphan) error {
	for _, o := range orphans {
		if !o.Removed {
			return errFindings
		}
	}
	return nil
}
