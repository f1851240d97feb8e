package plugin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// peer is a running server and a client of it.
type peer struct {
	path   string
	client *http.Client
	server *Server
	stop   context.CancelFunc
	done   chan error
	log    *bytes.Buffer // read after done only
}

func start(t *testing.T, s *Server, h http.Handler) *peer {
	t.Helper()
	p := &peer{path: filepath.Join(t.TempDir(), "s"), server: s, done: make(chan error, 1), log: &bytes.Buffer{}}
	before := goleak.IgnoreCurrent()
	logger := logrus.New()
	logger.SetOutput(p.log)
	ctx, stop := context.WithCancel(log.WithLogger(t.Context(), logrus.NewEntry(logger)))
	p.stop = stop
	l, err := Listen(ctx, p.path)
	assert.NilError(t, err)
	go func() { p.done <- s.Serve(ctx, l, h) }()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", p.path)
	}}
	p.client = &http.Client{Transport: transport}
	t.Cleanup(func() {
		stop()
		transport.CloseIdleConnections()
		goleak.VerifyNone(t, before)
	})
	return p
}

func (p *peer) post(t *testing.T, path, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://x"+path, strings.NewReader(body))
	assert.NilError(t, err)
	resp, err := p.client.Do(req)
	assert.NilError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	assert.NilError(t, err)
	return resp.StatusCode, string(b)
}

func (p *peer) end(t *testing.T) error {
	t.Helper()
	p.stop()
	select {
	case err := <-p.done:
		return err
	case <-time.After(10 * time.Second):
		t.Fatal("the server did not end within ten seconds")
		return nil
	}
}

func TestListenMakesAPrivateSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "made", "for it", "s")
	l, err := Listen(t.Context(), path)
	assert.NilError(t, err)
	fi, err := os.Lstat(path)
	assert.NilError(t, err)
	assert.Equal(t, fi.Mode(), os.ModeSocket|0o600)
	assert.NilError(t, l.Close())
	_, err = os.Lstat(path)
	assert.ErrorIs(t, err, os.ErrNotExist)
}

func TestListenReplacesOnlyWhatIsDead(t *testing.T) {
	live := func(t *testing.T, path string) {
		l, err := Listen(t.Context(), path)
		assert.NilError(t, err)
		t.Cleanup(func() { assert.NilError(t, l.Close()) })
	}
	dead := func(t *testing.T, path string) {
		l, err := Listen(t.Context(), path)
		assert.NilError(t, err)
		unixListener, ok := l.(*net.UnixListener)
		assert.Assert(t, ok)
		unixListener.SetUnlinkOnClose(false) // as a killed process
		assert.NilError(t, l.Close())
	}
	file := func(t *testing.T, path string) { assert.NilError(t, os.WriteFile(path, []byte("mine"), 0o600)) }
	for _, tc := range []struct {
		name  string
		there func(t *testing.T, path string)
		want  func(error) bool
	}{
		{"nothing", func(*testing.T, string) {}, nil},
		{"dead socket", dead, nil},
		{"live socket", live, errdefs.IsUnavailable},
		{"file", file, errdefs.IsFailedPrecondition},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s")
			tc.there(t, path)
			before, _ := os.Lstat(path)
			l, err := Listen(t.Context(), path)
			if tc.want == nil {
				assert.NilError(t, err)
				assert.NilError(t, l.Close())
				return
			}
			assert.Assert(t, tc.want(err), "%v", err)
			assert.Assert(t, is.Contains(err.Error(), path))
			after, err := os.Lstat(path)
			assert.NilError(t, err)
			assert.Assert(t, os.SameFile(before, after), "what was there must be left alone")
		})
	}
}

func TestListenNamesTheLimitOfALongPath(t *testing.T) {
	_, err := Listen(t.Context(), "/run/"+strings.Repeat("x", 120))
	assert.Assert(t, errdefs.IsInvalidArgument(err), "%v", err)
	assert.ErrorContains(t, err, "107")
}

// TestR05NoTimeouts: layers take as long as they take, idle connections are kept for ever.
func TestR05NoTimeouts(t *testing.T) {
	srv := (&Server{}).server(t.Context(), http.NotFoundHandler())
	assert.Equal(t, srv.ReadTimeout, time.Duration(0))
	assert.Equal(t, srv.WriteTimeout, time.Duration(0))
	assert.Equal(t, srv.IdleTimeout, time.Duration(0))
	assert.Equal(t, srv.ReadHeaderTimeout, headerTimeout)
}

// TestConnectionsAreBounded: the ones beyond wait for their turn.
func TestConnectionsAreBounded(t *testing.T) {
	const beyond = 16
	release := make(chan struct{})
	var running, most atomic.Int64
	var once sync.Once // when some have ended others may make up the number again
	p := start(t, &Server{}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n := running.Add(1)
		defer running.Add(-1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		if n == MaxConns {
			once.Do(func() { time.AfterFunc(200*time.Millisecond, func() { close(release) }) }) // time for one too many
		}
		<-release
		w.Header().Set("Connection", "close")
	}))
	var g errgroup.Group
	for range MaxConns + beyond {
		g.Go(func() error {
			resp, err := p.client.Post("http://x/", "", nil)
			if err != nil {
				return err
			}
			return resp.Body.Close()
		})
	}
	assert.NilError(t, g.Wait())
	assert.Equal(t, most.Load(), int64(MaxConns))
	assert.NilError(t, p.end(t))
}

// TestLargeHeader is refused, and costs no more than that.
func TestLargeHeader(t *testing.T) {
	p := start(t, &Server{}, http.NotFoundHandler())
	for size, status := range map[int]int{maxHeader / 2: http.StatusNotFound, 2 * maxHeader: http.StatusRequestHeaderFieldsTooLarge} {
		resp, err := p.client.Post("http://x/?"+strings.Repeat("q", size), "", nil)
		assert.NilError(t, err)
		assert.NilError(t, resp.Body.Close())
		assert.Equal(t, resp.StatusCode, status)
	}
	assert.NilError(t, p.end(t))
}

func TestPanicFailsOneRequest(t *testing.T) {
	busy, release := make(chan struct{}), make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/early", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100000")
		w.Header().Set("Content-Range", "bytes 0-1/2")
		panic("kaboom")
	})
	mux.HandleFunc("/late", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat("x", 100_000))
		panic("kaboom")
	})
	mux.HandleFunc("/abort", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	mux.HandleFunc("/other", func(w http.ResponseWriter, _ *http.Request) {
		close(busy)
		<-release
		_, _ = io.WriteString(w, "unharmed")
	})
	p := start(t, &Server{}, mux)
	other := make(chan string)
	go func() {
		resp, err := p.client.Post("http://x/other", "", nil)
		if err != nil {
			other <- err.Error()
			return
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		other <- fmt.Sprintf("%s%v", b, err)
	}()
	<-busy
	resp, err := p.client.Post("http://x/early", "", nil)
	assert.NilError(t, err)
	body, err := io.ReadAll(resp.Body)
	assert.NilError(t, err)
	assert.NilError(t, resp.Body.Close())
	assert.Equal(t, resp.StatusCode, http.StatusInternalServerError)
	assert.Equal(t, string(body), `{"Err":"internal error: kaboom"}`+"\n")
	assert.Equal(t, resp.Header.Get("Content-Range"), "", "what the handler had announced is taken back")

	resp, err = p.client.Post("http://x/late", "", nil)
	assert.NilError(t, err)
	_, err = io.Copy(io.Discard, resp.Body)
	assert.ErrorIs(t, err, io.ErrUnexpectedEOF, "a response that broke off must not look complete")
	assert.NilError(t, resp.Body.Close())

	_, err = p.client.Post("http://x/abort", "", nil)
	assert.ErrorIs(t, err, io.EOF)

	close(release)
	assert.Equal(t, <-other, "unharmed<nil>")
	assert.NilError(t, p.end(t))
	assert.Equal(t, strings.Count(p.log.String(), "panic: kaboom"), 2, "each panic but ErrAbortHandler is logged once")
	assert.Assert(t, is.Contains(p.log.String(), "plugin_test.go"), "with its stack")
}

// TestR08DrainWaitsForRequests: a request in progress ends in its own time, a new one is not accepted.
func TestR08DrainWaitsForRequests(t *testing.T) {
	busy, release := make(chan struct{}), make(chan struct{})
	p := start(t, &Server{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(busy)
		<-release
		assert.Check(t, r.Context().Err())
		_, _ = io.WriteString(w, "done")
	}))
	answer := make(chan string)
	go func() {
		resp, err := p.client.Post("http://x/", "", nil)
		if err != nil {
			answer <- err.Error()
			return
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		answer <- fmt.Sprintf("%s%v", b, err)
	}()
	<-busy
	assert.Equal(t, p.server.Running(), int64(1))
	p.stop()
	for {
		if _, err := os.Lstat(p.path); errors.Is(err, os.ErrNotExist) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	var d net.Dialer
	_, err := d.DialContext(t.Context(), "unix", p.path)
	assert.ErrorIs(t, err, os.ErrNotExist)
	close(release)
	assert.Equal(t, <-answer, "done<nil>")
	assert.NilError(t, p.end(t))
	assert.Equal(t, p.server.Running(), int64(0))
}

// TestR08DrainStopsWhatDoesNotEnd: first by its context, then by its connection.
func TestR08DrainStopsWhatDoesNotEnd(t *testing.T) {
	for _, tc := range []struct {
		name    string
		handler http.HandlerFunc
		status  int // 0 for a connection that was cut
	}{
		{"listens to its context", func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			w.WriteHeader(http.StatusServiceUnavailable)
		}, http.StatusServiceUnavailable},
		{"waits for its client", func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			busy := make(chan struct{})
			p := start(t, &Server{Drain: 50 * time.Millisecond}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				close(busy)
				tc.handler(w, r)
			}))
			body, never := io.Pipe()
			defer never.Close()
			answer := make(chan int)
			go func() {
				resp, err := p.client.Post("http://x/", "", body)
				if err != nil {
					answer <- 0
					return
				}
				assert.Check(t, resp.Body.Close())
				answer <- resp.StatusCode
			}()
			<-busy
			begin := time.Now()
			err := p.end(t)
			assert.ErrorIs(t, err, context.DeadlineExceeded)
			assert.ErrorContains(t, err, "1 requests stopped")
			assert.Assert(t, time.Since(begin) < 5*time.Second, "%v", time.Since(begin))
			assert.NilError(t, never.Close()) // else the client goes on waiting for it
			assert.Equal(t, <-answer, tc.status)
		})
	}
}

// TestServeThatIsOverBeforeItBegins: SIGTERM may come at any time.
func TestServeThatIsOverBeforeItBegins(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		path := filepath.Join(t.TempDir(), "s")
		l, err := Listen(t.Context(), path)
		assert.NilError(t, err)
		assert.NilError(t, (&Server{}).Serve(ctx, l, http.NotFoundHandler()))
		_, err = os.Lstat(path)
		assert.ErrorIs(t, err, os.ErrNotExist)
	}
}

func TestServeReturnsTheListenersError(t *testing.T) {
	l, err := Listen(t.Context(), filepath.Join(t.TempDir(), "s"))
	assert.NilError(t, err)
	assert.NilError(t, l.Close())
	assert.ErrorIs(t, (&Server{}).Serve(t.Context(), l, http.NotFoundHandler()), net.ErrClosed)
}

func TestReadJSON(t *testing.T) {
	var got struct{ Name string }
	p := start(t, &Server{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got.Name = ""
		if err := ReadJSON(w, r, &got); err != nil {
			assert.Check(t, errdefs.IsInvalidArgument(err), "%v", err)
			assert.Check(t, WriteError(w, http.StatusBadRequest, err))
			return
		}
		assert.Check(t, WriteJSON(w, http.StatusOK, got))
	}))
	for _, tc := range []struct {
		name, body, want string // want is the name, or a part of the error
		fails            bool
	}{
		{name: "plain", body: `{"Name":"a"}`, want: "a"},
		{name: "newline and unknown fields", body: `{"Name":"a","Else":[1]}` + "\n", want: "a"},
		{name: "empty", body: "", want: "empty", fails: true},
		{name: "blank", body: " \n", want: "empty", fails: true},
		{name: "cut short", body: `{"Name":"a`, want: "unexpected end", fails: true},
		{name: "two values", body: `{"Name":"a"}{"Name":"b"}`, want: "after top-level value", fails: true},
		{name: "wrong type", body: `{"Name":1}`, want: "cannot unmarshal", fails: true},
		{name: "largest", body: `{"Name":"` + strings.Repeat("n", MaxJSON-11) + `"}`, want: strings.Repeat("n", MaxJSON-11)},
		{name: "too large", body: `{"Name":"` + strings.Repeat("n", MaxJSON-10) + `"}`, want: "larger than 1048576 bytes", fails: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			status, body := p.post(t, "/", tc.body)
			var answer struct{ Name, Err string }
			assert.NilError(t, json.Unmarshal([]byte(body), &answer))
			if tc.fails {
				assert.Equal(t, status, http.StatusBadRequest)
				assert.Assert(t, is.Contains(answer.Err, tc.want))
				return
			}
			assert.Equal(t, status, http.StatusOK)
			assert.Assert(t, answer.Name == tc.want)
		})
	}
}

// TestSilentConnection holds that a client that connects and says nothing is no request that had to be stopped.
func TestSilentConnection(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := Listen(t.Context(), socket)
	assert.NilError(t, err)
	ctx, end := context.WithCancel(t.Context())
	s := Server{Drain: 100 * time.Millisecond}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l, http.NotFoundHandler()) }()
	c, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	assert.NilError(t, err)
	defer c.Close()
	time.Sleep(50 * time.Millisecond) // until it is accepted
	end()
	assert.NilError(t, <-done)
}

// TestKnock: who leaves without a word has knocked, who asks something has not.
func TestKnock(t *testing.T) {
	knocks := make(chan struct{}, 8)
	p := start(t, &Server{Knocked: func() { knocks <- struct{}{} }}, http.NotFoundHandler())
	p.post(t, "/x", "")
	p.client.CloseIdleConnections()
	dial := func() net.Conn {
		c, err := new(net.Dialer).DialContext(t.Context(), "unix", p.path)
		assert.NilError(t, err)
		return c
	}
	half := dial()
	_, err := half.Write([]byte("POST"))
	assert.NilError(t, err)
	assert.NilError(t, half.Close())
	assert.NilError(t, dial().Close())
	<-knocks
	assert.NilError(t, p.end(t))
	assert.Equal(t, len(knocks), 0)
}
