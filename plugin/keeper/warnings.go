package keeper

import (
	"context"
	"fmt"
	"strings"

	"strata/plugin"
	"strata/plugin/config"
)

// Warnings are what an administrator should know of, a line each: what is doubtful, what waits for
// a restart, what is damaged, and what Docker knows and the open store does not have.
func (k *Keeper[S]) Warnings(ctx context.Context) (all []string) {
	if k.o.Place.Doubt != "" {
		all = append(all, k.o.Place.Doubt)
	}
	all = append(all, k.lateWarnings()...)
	s := k.current.Load()
	if s == nil {
		return all
	}
	all = append(all, plugin.Damaged(s.Store.Damaged())...)
	if w := k.lostWarning(ctx, s); w != "" {
		all = append(all, w)
	}
	return all
}

// lateWarnings name the settings that wait for a restart.
func (k *Keeper[S]) lateWarnings() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.late) == 0 {
		return nil
	}
	process := "strata serve"
	if k.o.Restart == config.RestartDocker {
		process = "the plugin"
	}
	return []string{fmt.Sprintf("--storage-opt changed %s while the store was open; restart %s to put that in force", strings.Join(k.late, ", "), process)}
}
