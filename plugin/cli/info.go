package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"strata/backend/store"
	"strata/plugin/control"
)

func (s *session) info() *cobra.Command {
	return &cobra.Command{
		Use:   "info",
		Short: "Describe the store and how its backend works",
		Long: `Describe the store and how its backend works.

The lines from files to close tell, for each ability in backend/capability.go, which way is taken: native is the backend's own, anything else
the store's. What is native can still lack something of the file system, such as limits without quotas: the backend says so in the lines after these.
A line WARNING tells what an administrator should look into.`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.with(cmd.Context(), false, func(t *target) error {
				i, err := t.describe(cmd.Context())
				if err != nil {
					return err
				}
				return s.print(i, func(w io.Writer) { describe(w, i) })
			})
		},
	}
}

func describe(w io.Writer, i control.Info) {
	row(w, "root:", i.HostRoot)
	row(w, "uuid:", i.UUID)
	row(w, "backend:", i.Backend)
	row(w, "format:", i.Format)
	row(w, "sync:", i.Sync)
	row(w, "exact diffs:", yesNo(i.ExactDiffs))
	row(w, "additional stores:", orDash(strings.Join(i.Stores, ", ")))
	row(w, "mounts below:", i.MountDir)
	row(w, "layers:", layerCounts(i.Layers))
	row(w, "mounted:", i.Mounted)
	row(w, "being deleted:", i.Deleting)
	row(w, "version:", i.Version.Version)
	for _, f := range i.Abilities {
		row(w, f.Name+":", f.Value)
	}
	for _, f := range i.Fields {
		row(w, f.Name+":", f.Value)
	}
	for _, text := range i.Warnings {
		row(w, "WARNING:", text)
	}
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// layerCounts names the states that layers are in, the usual one first.
func layerCounts(n map[store.State]int) string {
	text := []string{fmt.Sprintf("%d %s", n[store.StateReady], store.StateReady)}
	for _, s := range []store.State{store.StateCreating, store.StateApplying, store.StateRemoving} {
		if n[s] > 0 {
			text = append(text, fmt.Sprintf("%d %s", n[s], s))
		}
	}
	return strings.Join(text, ", ")
}
