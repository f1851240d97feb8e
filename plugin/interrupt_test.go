package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
)

// TestInterruptedRead ends the one request that it is for, whether its body was read to the end or not, and no later one.
func TestInterruptedRead(t *testing.T) {
	for _, whole := range []bool{true, false} {
		t.Run(fmt.Sprintf("whole=%v", whole), func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/later" {
					if err := r.Context().Err(); err != nil {
						http.Error(w, err.Error(), http.StatusInternalServerError)
					}
					return
				}
				answer := Watch(w)
				interrupt, done := stopReading(answer)
				if whole {
					_, err := io.ReadAll(r.Body)
					assert.Check(t, err)
				}
				interrupt()
				if whole { // net/http notices, for it reads beyond the body
					<-r.Context().Done()
				} else {
					_, err := io.ReadAll(r.Body)
					assert.Check(t, err != nil)
				}
				done()
				answer.Header().Set("Content-Type", "application/x-tar")
				answer.Reset()
				assert.Check(t, WriteError(answer, http.StatusInternalServerError, errors.New("the layer was removed")))
			}))
			defer server.Close()
			client := server.Client()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			post := func(path string, body io.Reader) (int, string) {
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL+path, body)
				assert.NilError(t, err)
				answer, err := client.Do(req)
				assert.NilError(t, err)
				text, err := io.ReadAll(answer.Body)
				assert.NilError(t, err)
				assert.NilError(t, answer.Body.Close())
				return answer.StatusCode, strings.TrimSpace(string(text))
			}
			var body io.Reader = strings.NewReader("all of it")
			if !whole {
				r, w := io.Pipe() // a client that says no more
				defer w.Close()
				body = r
			}
			code, text := post("/interrupted", body)
			assert.Equal(t, code, http.StatusInternalServerError)
			assert.Equal(t, text, `{"Err":"the layer was removed"}`)
			code, text = post("/later", nil)
			assert.Equal(t, code, http.StatusOK, text)
		})
	}
}

// endless is a body that never ends.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// TestInterruptedSender: a client that goes on sending hears why it was interrupted.
func TestInterruptedSender(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	assert.NilError(t, err)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		interrupt, done := stopReading(w)
		_, err := io.ReadFull(r.Body, make([]byte, 1))
		assert.Check(t, err)
		interrupt()
		done()
		assert.Check(t, WriteError(w, http.StatusInternalServerError, errors.New("the layer was removed")))
	}))
	assert.NilError(t, server.Listener.Close())
	server.Listener = l
	server.Start()
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", l.Addr().String())
	}}}
	for range 20 {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://strata/", endless{})
		assert.NilError(t, err)
		answer, err := client.Do(req)
		assert.NilError(t, err)
		assert.Equal(t, answer.StatusCode, http.StatusInternalServerError)
		assert.NilError(t, answer.Body.Close())
	}
}
