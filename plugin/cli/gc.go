package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"strata/backend/store"
	"strata/plugin"
	"strata/plugin/snapshotter"
)

// minAge is how old a layer must be to count as an orphan by default. Docker writes a layer down
// only when it is complete, and a large one takes a while to pull and unpack.
const minAge = time.Hour

func (s *session) gc() *cobra.Command {
	var yes bool
	var c dockerComparison
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "List layers that nobody needs any more, and remove them with --yes; exit code 3 if some remain",
		Long: `List layers that nobody needs any more, and remove them with --yes. What a damaged record may need, or something mounted uses, stays, and is
listed with the reason.

ON DISK is what a layer has for itself, and its removal frees; of vfs it is the whole copy, and its removal frees less where copies share blocks (reflinks).

Without --docker-root only what the store itself can tell is listed. With it the store is compared
with Docker's own record of its layers, and with BuildKit's of its own. Without the latter BuildKit's
layers (names of 25 characters) are listed, but never removed.

A record that has none of the store's layers, however young, is taken for that of another Docker, and a store that has none of the record's
layers for another store: then nothing is listed or removed. A Docker that was stopped for good, or has no layers any more, is told from it
by --docker-gone.`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.complete(cmd.Flags().Changed("older-than")); err != nil {
				return err
			}
			return s.with(cmd.Context(), yes, func(t *target) error {
				o := store.GCOptions{Yes: yes}
				var doubtful []store.Orphan
				if c.root != "" {
					var err error
					if o, doubtful, err = c.compare(cmd.Context(), t, yes); err != nil {
						return err
					}
				}
				orphans, err := t.GC(cmd.Context(), o)
				if err != nil {
					return err
				}
				orphans = append(c.explain(orphans), doubtful...)
				if err := s.print(emptyNotNull(orphans), func(w io.Writer) { printOrphans(w, orphans) }); err != nil {
					return err
				}
				return remaining(orphans)
			})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&yes, "yes", false, "remove what is listed")
	f.StringVar(&c.root, "docker-root", "", "Docker's data root, such as /var/lib/docker, to compare with")
	f.BoolVar(&c.gone, "docker-gone", false, "with --docker-root: take it that this Docker needs no layers any more, whatever its record has, or if there is none")
	f.DurationVar(&c.older, "older-than", minAge, "with --docker-root: pass over younger layers, which Docker may be about to write down")
	return cmd
}

// dockerComparison says which Docker's record the store is compared with.
type dockerComparison struct {
	root  string        // Docker's data root, "" for no comparison
	gone  bool          // the record counts as empty
	older time.Duration // younger layers are passed over
}

// complete refuses flags that mean nothing without a data root. deadline tells that one was given.
func (c dockerComparison) complete(deadline bool) error {
	switch {
	case c.root != "":
		return nil
	case c.gone:
		return usageError{errors.New("--docker-gone is about a Docker: say with --docker-root which one")}
	case deadline:
		return usageError{errors.New("--older-than is about what Docker may be about to write down: say --docker-root, too")}
	}
	return nil
}

// compare returns which layers are to be kept, or not to be looked at, and those that nothing can be said about. ErrFailedPrecondition if
// the record and the store have no layer in common.
func (c dockerComparison) compare(ctx context.Context, t *target, yes bool) (o store.GCOptions, doubtful []store.Orphan, err error) {
	// The store first: a layer that Docker makes and writes down meanwhile is then not in the list.
	list, err := t.List(ctx)
	if err != nil {
		return o, nil, err
	}
	o = store.GCOptions{Yes: yes, Listed: make(map[string]bool, len(list))}
	for _, l := range list {
		o.Listed[l.ID] = true
	}
	docker := dockerNames{snapshots: true} // BuildKit is gone with its Docker
	if !c.gone {
		if docker, err = dockerLayers(c.root); err != nil {
			return o, nil, err
		}
		if err := c.related(list, docker); err != nil {
			return o, nil, err
		}
	}
	o.Known, doubtful = judge(list, docker.known, docker.snapshots, time.Now().Add(-c.older))
	return o, doubtful, nil
}

// related refuses a record and a store of which one has layers of Docker's, and none is in the other.
func (c dockerComparison) related(list []store.Info, docker dockerNames) error {
	ours := slices.DeleteFunc(slices.Clone(list), containerds)
	const gone = "if this Docker was removed, or has no layers any more, repeat with --docker-gone"
	switch {
	case slices.ContainsFunc(ours, func(l store.Info) bool { return docker.known[l.Name] }):
		return nil
	case len(ours) > 0:
		return fmt.Errorf("gc: none of the store's layers is in Docker's record in %s: it is another Docker's record, or the store is another one; "+
			gone+": %w", c.root, errdefs.ErrFailedPrecondition)
	case docker.plugins:
		return fmt.Errorf("gc: the store has no layer of those in Docker's record in %s: its own records are lost, or it is another store, or its disk is not mounted; "+
			"restore them, and restart Strata, or mount the disk; "+gone+": %w", c.root, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// containerds tells a layer of containerd's, which removes by itself what it does not know.
func containerds(l store.Info) bool { return strings.HasPrefix(l.Name, snapshotter.Prefix) }

// explain says which record a layer is missing in.
func (c dockerComparison) explain(orphans []store.Orphan) []store.Orphan {
	reason := fmt.Sprintf("it is not in Docker's record in %s", c.root)
	if c.gone {
		reason = fmt.Sprintf("the Docker of %s is gone", c.root)
	}
	for i, o := range orphans {
		orphans[i].Reason = strings.Replace(o.Reason, store.ReasonUnknown, reason, 1)
	}
	return orphans
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
		case containerds(l):
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
	row(w, "NAME", "ID", "ON DISK", "REMOVED", "WHY")
	var total int64
	measured := 0
	for _, o := range orphans {
		bytes := "-"
		if o.Size != nil {
			bytes = size(*o.Size)
			total += *o.Size
			measured++
		}
		row(w, orDash(short(o.Name)), o.ID, bytes, yesNo(o.Removed), plugin.Plain(o.Reason))
	}
	if measured > 1 {
		row(w, "total", "-", size(total), "-", "-")
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
