package plugin

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"strata/backend/store"
)

// Reading returns the context of a request for a call of the store that reads its body: if the store ends the call, that waits for the
// client no longer. done is to be called when the store's call has returned, before anything is answered.
func Reading(w http.ResponseWriter, r *http.Request) (ctx context.Context, done func()) {
	interrupt, done := stopReading(w)
	return store.WithInterrupt(r.Context(), interrupt), done
}

// stopReading returns what ends the reading of a request's body, at any time until done is called. A connection that was interrupted ends
// with the answer: past the body's end it is net/http that reads, and a read that fails there ends the contexts of all later requests.
func stopReading(w http.ResponseWriter) (interrupt, done func()) {
	c := http.NewResponseController(w)
	var interrupted atomic.Bool
	interrupt = func() {
		interrupted.Store(true)
		_ = c.SetReadDeadline(past()) // without it the call ends when the client goes on
	}
	return interrupt, func() {
		if interrupted.Load() {
			w.Header().Set("Connection", "close")
			_ = c.SetReadDeadline(time.Now().Add(linger)) // without it the connection ends sooner
		}
	}
}

// linger is how long a connection that was interrupted takes what its client still sends: one that is
// closed meanwhile gives the client an error of its own in place of the answer.
const linger = time.Second

// Writing is Reading for a call whose answer is a stream. An error before the first byte can still be told after done.
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
