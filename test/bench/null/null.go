// Package null is a Docker storage driver that stores nothing: it reads every layer it is given and
// throws it away. How long dockerd takes with it is how long dockerd takes anyway, which makes it
// the limit for any driver. Nothing but loading and removing images works on it.
package null

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
)

// Driver answers Docker's GraphDriver protocol. It may be used concurrently.
type Driver struct {
	Dir   string // an empty directory for each layer is made here
	Exact bool   // the capability ReproducesExactDiffs: dockerd then keeps no record of tar headers
}

// request holds the fields of all JSON requests that matter here.
type request struct{ ID string }

// ServeHTTP implements [http.Handler].
func (d *Driver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	reply, err := d.answer(r)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		reply = map[string]any{"Err": err.Error()}
	}
	// The client that does not get this has gone, and there is nobody else to tell.
	_ = json.NewEncoder(w).Encode(reply)
}

func (d *Driver) answer(r *http.Request) (any, error) {
	if r.URL.Path == "/GraphDriver.ApplyDiff" {
		n, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{r.Body}, make([]byte, 1<<20))
		return map[string]any{"Size": n}, err
	}
	var q request
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil && !errors.Is(err, io.EOF) { // Activate has no body
		return nil, fmt.Errorf("decode %s: %w", r.URL.Path, err)
	}
	dir := filepath.Join(d.Dir, "layers", filepath.Base(q.ID))
	switch r.URL.Path {
	case "/Plugin.Activate":
		return map[string]any{"Implements": []string{"GraphDriver"}}, nil
	case "/GraphDriver.Capabilities":
		return map[string]any{"Capabilities": map[string]bool{"ReproducesExactDiffs": d.Exact}}, nil
	case "/GraphDriver.Create", "/GraphDriver.CreateReadWrite":
		return struct{}{}, os.MkdirAll(dir, 0o755)
	case "/GraphDriver.Get":
		return map[string]any{"Dir": dir}, nil
	case "/GraphDriver.Remove":
		return struct{}{}, os.RemoveAll(dir)
	case "/GraphDriver.Init", "/GraphDriver.Put", "/GraphDriver.Cleanup", "/GraphDriver.Status", "/GraphDriver.GetMetadata":
		return struct{}{}, nil
	}
	return nil, fmt.Errorf("%s: not in a driver that stores nothing", r.URL.Path)
}
