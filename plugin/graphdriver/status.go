package graphdriver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"strata/backend/store"
	"strata/plugin"
	"strata/plugin/keeper"
)

// activate is asked of legacy plugins only.
func (h *Handler) activate(context.Context) (reply, error) {
	return reply{Implements: []string{"GraphDriver"}}, nil
}

// optional returns the store, or nil if no Init has been received yet.
func (h *Handler) optional(ctx context.Context) (*attachment, error) {
	if !h.keeper.begun() { // containerd may have the store open before Docker does; that is not for Docker to do
		return nil, nil //nolint:nilnil // nil is the answer
	}
	a, err := h.keeper.session(ctx)
	if errors.Is(err, keeper.ErrNoInit) {
		return nil, nil //nolint:nilnil // nil is the answer
	}
	return a, err
}

// capabilities promises exact diffs if the store was made with that promise. Docker asks once, after Init.
func (h *Handler) capabilities(ctx context.Context) (reply, error) {
	a, err := h.optional(ctx)
	if err != nil {
		return reply{}, err
	}
	return reply{Capabilities: &capability{ReproducesExactDiffs: a != nil && a.info.ExactDiffs}}, nil
}

// cleanup is called when Docker ends and none of its containers runs any more: with live-restore it
// is not called while one does (moby daemon/daemon.go, Shutdown). What Docker left mounted goes, as
// with its built-in drivers. The store stays open, for people with a command line and for the next
// daemon, which may find this process alive.
func (h *Handler) cleanup(ctx context.Context) (reply, error) {
	a, err := h.optional(ctx)
	if a == nil || err != nil {
		return reply{}, err
	}
	return reply{}, a.UnmountAll(ctx)
}

// status is what `docker info` shows. Of an error it shows nothing at all, so why there is no store is a row.
func (h *Handler) status(ctx context.Context) (reply, error) {
	var rows [][2]string
	a, err := h.optional(ctx)
	switch {
	case err != nil:
		rows = append(rows, [2]string{"Backend", "not available"}, [2]string{"ERROR", h.o.HostText(plugin.Plain(err.Error()))})
	case a == nil:
		rows = append(rows, [2]string{"Backend", "not initialised"})
	default:
		info, err := a.Info(ctx)
		rows = storeRows(info)
		if err != nil {
			rows = append(rows, [2]string{"ERROR", plugin.Plain(err.Error())})
		}
		for i := range rows {
			rows[i][1] = h.o.HostText(rows[i][1])
		}
	}
	for _, w := range h.o.Warnings(ctx) {
		rows = append(rows, [2]string{"WARNING", w})
	}
	return reply{Status: rows}, nil
}

func storeRows(i store.StoreInfo) [][2]string {
	rows := make([][2]string, 0, 6+len(i.Stores)+len(i.Fields))
	rows = append(rows,
		[2]string{"Backend", i.Backend},
		[2]string{"Root", i.Root},
		[2]string{"Sync", string(i.Sync)},
		[2]string{"Exact diffs", strconv.FormatBool(i.ExactDiffs)},
		[2]string{"Layers", countStates(i.Layers)},
		[2]string{"Mounted", strconv.Itoa(i.Mounted)})
	for _, root := range i.Stores {
		rows = append(rows, [2]string{"Additional store", root})
	}
	for _, f := range i.Fields {
		rows = append(rows, [2]string{f.Name, f.Value})
	}
	return rows
}

// countStates prints "12", or "12 (1 applying, 3 removing)" if not all layers are ready.
func countStates(layers map[store.State]int) string {
	total := 0
	var others []string
	for state, n := range layers {
		total += n
		if n > 0 && state != store.StateReady {
			others = append(others, fmt.Sprintf("%d %s", n, state))
		}
	}
	if len(others) == 0 {
		return strconv.Itoa(total)
	}
	slices.Sort(others)
	return fmt.Sprintf("%d (%s)", total, strings.Join(others, ", "))
}
