package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
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
