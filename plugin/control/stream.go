package control

import (
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/containerd/log"

	"strata/plugin"
)

// stream writes events, one a line, and pushes each out at once. Safe for concurrent use.
type stream struct {
	mu   sync.Mutex // serialises writes and last
	w    *plugin.Response
	last time.Time // of the last progress event
}

// events makes a handler of a function that reports by events. A failure before the first event gets
// a status, a later one is an event.
func events(s *server, f func(r *http.Request, out *stream) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		out := &stream{w: plugin.Watch(w)}
		err := f(r, out)
		if err != nil && !out.w.Begun() {
			s.fail(w, r, err)
			return
		}
		end := event{Done: true}
		if err != nil {
			log.G(r.Context()).WithField("op", r.URL.Path).WithError(err).Error("control call failed")
			wire, _ := s.toWire(err) // the status line is long gone
			end = event{Error: wire}
		}
		if err := out.send(end); err != nil {
			log.G(r.Context()).WithField("op", r.URL.Path).WithError(err).Debug("client went away")
		}
	}
}

func (s *stream) send(e event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sendLocked(e)
}

func (s *stream) sendLocked(e event) error {
	if !s.w.Begun() {
		s.w.Header().Set("Content-Type", "application/x-ndjson")
	}
	if err := json.NewEncoder(s.w).Encode(e); err != nil {
		return err
	}
	return http.NewResponseController(s.w).Flush()
}

// progress sends a progress event, unless one was sent a moment ago.
func (s *stream) progress(done, total int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if done < total && time.Since(s.last) < progressEvery {
		return
	}
	s.last = time.Now()
	_ = s.sendLocked(event{Progress: &progress{done, total}}) // a client that went away cancels the request's context
}
