// Package plugin holds what Strata's front ends share: a unix socket that only root may use, and a
// server on it that survives a panic in one request and ends in an orderly way on SIGTERM. What clients can make it keep is
// bounded: connections, headers, and bodies other than tars.
//
// A program listens first and serves at once, with a handler that lets requests wait until the
// store is open: Docker only knocks on a plugin's socket during its first ten seconds and disables a
// plugin that does not answer. [Server] sets no limit on how long a request takes or how long a
// connection idles, because layers can be of any size and Docker keeps its connections for reuse.
package plugin

import (
	"context"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
)

const (
	// DefaultDrain is how long requests may go on after SIGTERM. Docker sends SIGKILL ten seconds
	// after SIGTERM (moby plugin/manager_linux.go, shutdownPlugin); the rest is for abortGrace and
	// for closing the store.
	DefaultDrain = 8 * time.Second
	// abortGrace is how long requests have to notice that they were told to stop.
	abortGrace = time.Second
	// headerTimeout bounds the reading of a request's header, so that a client that connects and
	// says nothing holds a connection for this long only.
	headerTimeout = time.Minute
	// maxHeader bounds a request's header, bytes: a layer's name of 255 bytes, escaped, and its parent's, with much to spare.
	maxHeader = 64 << 10
)

// Server serves one handler on one listener. The zero value is ready for use. It must not be copied.
type Server struct {
	// Drain is how long requests may go on after the context of Serve ended. 0 is DefaultDrain.
	Drain time.Duration
	// Knocked is called when a client has connected and left without a word, as dockerd does to see whether a plugin that it
	// starts listens (moby plugin/manager_linux.go, pluginPostStart). nil is for who need not know. It may be called concurrently.
	Knocked func()

	running atomic.Int64
}

// Running returns how many requests are being served. It may be called at any time.
func (s *Server) Running() int64 { return s.running.Load() }

// Serve answers requests with h until ctx ends. Then it closes l, lets requests in progress go on
// for Drain, cancels the contexts of those that remain, and at last cuts their connections. It
// returns nil when every request ended by itself, context.DeadlineExceeded when some had to be
// stopped, and at once if l fails. The requests' contexts carry ctx's values but do not
// end with it.
func (s *Server) Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	base, abort := context.WithCancel(context.WithoutCancel(ctx))
	defer abort()
	srv := s.server(base, h)
	l = LimitConns(l)
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	select {
	case err := <-failed:
		_ = srv.Close() // the listener is gone already, and err says why
		return fmt.Errorf("serve on %s: %w", l.Addr(), err)
	case <-ctx.Done():
		err := s.drain(ctx, srv, abort)
		<-failed //nolint:errcheck // l is closed, even if it was not served yet; why is known
		return err
	}
}

// server has no timeout but that for headers: a layer takes as long as it takes, and Docker sends its
// next request on a connection that may have idled for days.
func (s *Server) server(base context.Context, h http.Handler) *http.Server {
	srv := &http.Server{
		Handler:           s.count(guard(h)),
		ReadHeaderTimeout: headerTimeout,
		MaxHeaderBytes:    maxHeader,
		BaseContext:       func(net.Listener) context.Context { return base },
		ErrorLog:          stdlog.New(&logWriter{entry: log.G(base)}, "", 0),
	}
	if s.Knocked != nil {
		srv.ConnState = s.connState()
	}
	return srv
}

// connState calls Knocked for each connection that is closed before anything was said.
func (s *Server) connState() func(net.Conn, http.ConnState) {
	var silent sync.Map
	return func(c net.Conn, state http.ConnState) {
		if state == http.StateNew {
			silent.Store(c, true)
			return
		}
		if _, was := silent.LoadAndDelete(c); was && state == http.StateClosed {
			s.Knocked()
		}
	}
}

// drain ends srv: politely, then firmly, then at once.
func (s *Server) drain(ctx context.Context, srv *http.Server, abort context.CancelFunc) error {
	patience := s.Drain
	if patience == 0 {
		patience = DefaultDrain
	}
	if shutdown(ctx, srv, patience) == nil {
		return nil
	}
	stopped := s.Running()
	abort()
	if stopped == 0 { // of a connection that has said nothing yet net/http waits for the first words, five seconds
		_ = srv.Close() // an error of a connection changes nothing
		return nil
	}
	if shutdown(ctx, srv, abortGrace) != nil {
		_ = srv.Close() // closes every connection; an error of one of them changes nothing
	}
	return fmt.Errorf("drain: %d requests stopped after %v: %w", stopped, patience, context.DeadlineExceeded)
}

func shutdown(ctx context.Context, srv *http.Server, patience time.Duration) error {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer stop()
	return srv.Shutdown(ctx)
}

func (s *Server) count(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.running.Add(1)
		defer s.running.Add(-1)
		next.ServeHTTP(w, r)
	})
}

// logWriter passes what net/http has to say on to our log. net/http writes one line at a time.
type logWriter struct{ entry *logrus.Entry }

func (l *logWriter) Write(b []byte) (int, error) {
	l.entry.Warn(strings.TrimSuffix(string(b), "\n"))
	return len(b), nil
}
