package graphdriver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/backendtest"
)

// TestR05ChangesComeAsTheyAreFound: a list is on its way before its end is known, is one JSON object for Docker, and one that breaks off is none.
func TestR05ChangesComeAsTheyAreFound(t *testing.T) {
	r := newRig(t, Options{})
	r.init()
	const enough = 10000
	seen := make(chan struct{})
	r.fake.onChanges = func(ctx context.Context) iter.Seq2[backend.Change, error] {
		return func(yield func(backend.Change, error) bool) {
			for range enough {
				if !yield(backend.Change{Path: "/" + strings.Repeat("d", 1000), Kind: backend.Added}, nil) {
					return
				}
			}
			select {
			case <-seen: // the client has got something before the end
			case <-time.After(10 * time.Second):
				yield(backend.Change{}, errors.New("nothing has arrived"))
				return
			}
			yield(backend.Change{Path: "/<end>", Kind: backend.Deleted}, nil)
		}
	}
	ask := func() io.ReadCloser {
		resp, err := r.http.Post("http://plugin/GraphDriver.Changes", "", strings.NewReader(`{"ID":"`+id("a")+`"}`))
		assert.NilError(t, err)
		return resp.Body
	}
	body := ask()
	first := make([]byte, 100)
	_, err := io.ReadFull(body, first)
	assert.NilError(t, err)
	close(seen)
	var answer struct{ Changes []backend.Change }
	assert.NilError(t, json.NewDecoder(io.MultiReader(bytes.NewReader(first), body)).Decode(&answer))
	assert.NilError(t, body.Close())
	assert.Equal(t, len(answer.Changes), enough+1)
	assert.DeepEqual(t, answer.Changes[enough], backend.Change{Path: "/<end>", Kind: backend.Deleted})

	r.fake.onChanges = func(context.Context) iter.Seq2[backend.Change, error] {
		return backendtest.Sequence(answer.Changes, errors.New("unreadable file"))
	}
	body = ask()
	assert.ErrorIs(t, json.NewDecoder(body).Decode(&answer), io.ErrUnexpectedEOF)
	assert.NilError(t, body.Close())
}
