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
		seen := &watchedWriter{ResponseWriter: w}
		defer func(ctx context.Context) {
			if v := recover(); v != nil {
				survive(ctx, r.URL.Path, seen, v)
			}
		}(r.Context())
		next.ServeHTTP(seen, r)
	})
}

// survive ends a request whose handler panicked with v.
func survive(ctx context.Context, path string, w *watchedWriter, v any) {
	if v == http.ErrAbortHandler { //nolint:errorlint // it is panicked with as it is
		panic(v)
	}
	log.G(ctx).WithField("op", path).Errorf("panic: %v\n%s", v, debug.Stack())
	if w.begun {
		panic(http.ErrAbortHandler)
	}
	clear(w.Header())
	_ = WriteError(w, http.StatusInternalServerError, fmt.Errorf("internal error: %v", v)) // the panic is logged
}

// watchedWriter knows whether a response has begun.
type watchedWriter struct {
	http.ResponseWriter
	begun bool
}

func (w *watchedWriter) WriteHeader(status int) {
	w.begun = true
	w.ResponseWriter.WriteHeader(status)
}

func (w *watchedWriter) Write(b []byte) (int, error) {
	w.begun = true
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *watchedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
