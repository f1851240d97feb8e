package plugin

import (
	"context"
	"fmt"
	"net/http"
	"runtime/debug"

	"github.com/containerd/log"
)

// guard turns a panic in next into the failure of that one request: status 500 if nothing was sent
// yet, else the connection is cut, so that the client does not take a part for the whole.
// http.ErrAbortHandler passes through: it is how a handler itself cuts a connection.
func guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen := Watch(w)
		defer func(ctx context.Context) {
			if v := recover(); v != nil {
				survive(ctx, r.URL.Path, seen, v)
			}
		}(r.Context())
		next.ServeHTTP(seen, r)
	})
}

// survive ends a request whose handler panicked with v.
func survive(ctx context.Context, path string, w *Response, v any) {
	if v == http.ErrAbortHandler { //nolint:errorlint // it is panicked with as it is
		panic(v)
	}
	log.G(ctx).WithField("op", path).Errorf("panic: %v\n%s", v, debug.Stack())
	if w.Begun() {
		w.Cut()
	}
	w.Reset()
	_ = WriteError(w, http.StatusInternalServerError, fmt.Errorf("internal error: %v", v)) // the panic is logged
}
