// Package graphdriver speaks Docker's GraphDriver plugin protocol, as dockerd 17.06 to 27.5 do, for a
// store. It translates and remembers nothing but the arguments of Init; everything else is the
// store's.
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
//
// # Restarts
//
// Docker starts a plugin that crashed again without calling Init. The arguments are therefore kept
// in a file, and the first call that needs the store opens it from there.
package graphdriver

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"

	"github.com/containerd/errdefs"

	"strata/backend/store"
	"strata/plugin"
)

// Options connect a Handler to the program that it is part of.
type Options struct {
	// InitFile is where the arguments of the last successful Init are kept, in a directory that
	// exists when Open has returned.
	InitFile string
	// Open opens the store for the arguments that Docker gave. It is called by the first Init, or
	// by the first other call if InitFile exists, never twice at once, and again after it failed. Its
	// context does not end with the request. It need not set store.Config.IDMap: the handler gives
	// every layer the ID map of the latest Init.
	Open func(ctx context.Context, init Init) (*store.Store, error)
	// Reconfigure is called for an Init whose Opts differ from those that the store was opened with
	// and changes what can be changed while it is open. Its error refuses the Init. nil refuses
	// every difference.
	Reconfigure func(ctx context.Context, s *store.Store, old, next Init) error
	// HostPath turns the path of a mounted layer into what Docker must be told (see Climb). nil
	// leaves it as it is, which is right if both see the same file tree.
	HostPath func(dir string) string
	// HostText turns the paths in a text for people into the host's. nil leaves them as they are.
	HostText func(text string) string
	// DataRoot is Docker's data root, as seen here. "" is the directory that Init.Home lies in.
	DataRoot string
	// Warnings are shown by `docker info`, a line each. nil is none.
	Warnings func() []string
	// Refuse returns why nothing can be served, nil if it can. It is asked by every call that needs the store. nil never refuses.
	Refuse func() error
	// Unseen returns why Docker would not see what is mounted for it. It is asked by every Get. nil is for a program whose mounts
	// Docker always sees.
	Unseen func() error
	// Observer is told about every call. nil is nobody.
	Observer plugin.Observer
	// Alone lets a call of Store that comes before any Init open the store with the arguments of none, for a program
	// that serves others, too.
	Alone bool
	// Version of the program, kept in InitFile for the one who reads it.
	Version string
}

// Handler serves the protocol. It may be used before the store is open: Plugin.Activate, Status,
// Capabilities and Cleanup are answered without one.
type Handler struct {
	o      Options
	open   func(ctx context.Context, init Init) (layers, error)
	change func(ctx context.Context, l layers, old, next Init) error
	routes map[string]http.Handler

	attaching chan struct{} // holds one token: whoever has it may set current and write InitFile
	current   atomic.Pointer[attachment]
	failed    atomic.Pointer[error] // of the last Init, nil if it succeeded
	closed    bool                  // guarded by attaching
}

// New makes a handler. It does nothing until it is called.
func New(o Options) *Handler {
	h := newHandler(o, func(ctx context.Context, i Init) (layers, error) {
		s, err := o.Open(ctx, i)
		if err != nil {
			return nil, err // not s: a nil *store.Store in an interface is not nil
		}
		return s, nil
	})
	if o.Reconfigure != nil {
		h.change = func(ctx context.Context, l layers, old, next Init) error {
			s, ok := l.(*store.Store)
			if !ok {
				return fmt.Errorf("reconfigure a %T: %w", l, errdefs.ErrNotImplemented)
			}
			return o.Reconfigure(ctx, s, old, next)
		}
	}
	return h
}

func newHandler(o Options, open func(context.Context, Init) (layers, error)) *Handler {
	if o.HostPath == nil {
		o.HostPath = func(dir string) string { return dir }
	}
	if o.HostText == nil {
		o.HostText = func(text string) string { return text }
	}
	if o.Refuse == nil {
		o.Refuse = func() error { return nil }
	}
	if o.Unseen == nil {
		o.Unseen = func() error { return nil }
	}
	h := &Handler{o: o, open: open, attaching: make(chan struct{}, 1)}
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
