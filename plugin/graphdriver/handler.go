// Package graphdriver speaks Docker's GraphDriver plugin protocol, as dockerd 17.06 to 27.5 do, for a
// store. It translates and remembers nothing: the store is the keeper's, and so are the arguments of
// Init.
//
// The protocol is HTTP/1.1 on a unix socket: POST /GraphDriver.METHOD with a JSON object as body
// and as response, except that ApplyDiff has a tar as body and its arguments in the query, and Diff
// answers with a tar. A failure is status 500, or 400 if the request itself is at fault, with
// {"Err": text}; a Diff that fails after its first byte cuts the connection.
//
// # Retries
//
// Docker's client repeats a call up to four times if the connection breaks, but not its body: it
// goes on reading where the first attempt stopped. A JSON call comes again with an empty body, an
// ApplyDiff with an empty stream or with the rest of it, which may look like a whole one. Empty bodies
// and streams are refused here. The store refuses a layer that an attempt has begun to fill, and one
// that an earlier process made, because an attempt may have died with that process.
package graphdriver

import (
	"context"
	"fmt"
	"net/http"

	"strata/plugin"
	"strata/plugin/keeper"
)

// Options connect a Handler to the program that it is part of.
type Options struct {
	// HostPath turns the path of a mounted layer into what Docker must be told (see Climb). nil
	// leaves it as it is, which is right if both see the same file tree.
	HostPath func(dir string) string
	// HostText turns the paths in a text for people into the host's. nil leaves them as they are.
	HostText func(text string) string
	// Warnings are shown by `docker info`, a line each. nil is none.
	Warnings func(ctx context.Context) []string
	// Unseen returns why Docker would not see what is mounted for it. It is asked by every Get. nil is for a program whose mounts
	// Docker always sees.
	Unseen func() error
	// Observer is told about every call. nil is nobody.
	Observer plugin.Observer
}

// Handler serves the protocol. It may be used before the store is open: Plugin.Activate, Status,
// Capabilities and Cleanup are answered without one.
type Handler struct {
	o      Options
	keeper owner
	routes map[string]http.Handler
}

// Store is what a Handler, and its keeper, want of a store. *store.Store has it.
type Store interface {
	Layers
	keeper.Store
}

// New makes a handler over the store that k owns. It does nothing until it is called.
func New[S Store](k *keeper.Keeper[S], o Options) *Handler { return newHandler(owned(k), o) }

func newHandler(k owner, o Options) *Handler {
	if o.HostPath == nil {
		o.HostPath = func(dir string) string { return dir }
	}
	if o.HostText == nil {
		o.HostText = func(text string) string { return text }
	}
	if o.Warnings == nil {
		o.Warnings = func(context.Context) []string { return nil }
	}
	if o.Unseen == nil {
		o.Unseen = func() error { return nil }
	}
	h := &Handler{o: o, keeper: k}
	h.routes = map[string]http.Handler{
		"/Plugin.Activate":             bare(h, "Activate", h.activate),
		"/GraphDriver.Init":            endpoint(h, "Init", h.init),
		"/GraphDriver.Capabilities":    bare(h, "Capabilities", h.capabilities),
		"/GraphDriver.Status":          bare(h, "Status", h.status),
		"/GraphDriver.Cleanup":         bare(h, "Cleanup", h.cleanup),
		"/GraphDriver.Create":          endpoint(h, "Create", h.create),
		"/GraphDriver.CreateReadWrite": endpoint(h, "CreateReadWrite", h.create),
		"/GraphDriver.Remove":          endpoint(h, "Remove", h.remove),
		"/GraphDriver.Get":             endpoint(h, "Get", h.get),
		"/GraphDriver.Put":             endpoint(h, "Put", h.put),
		"/GraphDriver.Exists":          endpoint(h, "Exists", h.exists),
		"/GraphDriver.GetMetadata":     endpoint(h, "GetMetadata", h.metadata),
		"/GraphDriver.Changes":         h.serve("Changes", h.changes),
		"/GraphDriver.DiffSize":        endpoint(h, "DiffSize", h.diffSize),
		"/GraphDriver.Diff":            h.serve("Diff", h.diff),
		"/GraphDriver.ApplyDiff":       h.serve("ApplyDiff", h.applyDiff),
	}
	return h
}

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	route, ok := h.routes[r.URL.Path]
	status := http.StatusNotFound
	if ok && r.Method != http.MethodPost {
		ok, status = false, http.StatusMethodNotAllowed
	}
	if !ok {
		// The client's connection is all that can fail here.
		_ = plugin.WriteError(w, status, fmt.Errorf("%s %s: %s", r.Method, r.URL.Path, http.StatusText(status)))
		return
	}
	route.ServeHTTP(w, r)
}
