package plugin

import (
	"context"
	"net/http"
	"time"

	"strata/backend/store"
)

// Reading returns the context of a request for a call of the store that reads its body: if the store ends the call, that waits for the
// client no longer.
func Reading(w http.ResponseWriter, r *http.Request) context.Context {
	return store.WithInterrupt(r.Context(), func() {
		_ = http.NewResponseController(w).SetReadDeadline(past()) // without it the call ends when the client goes on
	})
}

// Writing is Reading for a call whose answer is a stream. done is to be called when the store's call has returned: an error before the
// first byte can still be told.
func Writing(w http.ResponseWriter, r *http.Request) (ctx context.Context, done func()) {
	c := http.NewResponseController(w)
	ctx = store.WithInterrupt(r.Context(), func() {
		_ = c.SetWriteDeadline(past()) // as for Reading
	})
	return ctx, func() {
		_ = c.SetWriteDeadline(time.Time{}) // what is written next says so if the connection is gone
	}
}

// past is a deadline that has been missed.
func past() time.Time { return time.Unix(1, 0) }
