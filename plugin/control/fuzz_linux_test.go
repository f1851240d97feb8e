package control_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	"gotest.tools/v3/assert"

	"strata/backend/backendtest"
	"strata/backend/store"
	"strata/plugin/control"
)

// realStore is one with an image of two layers, one of them with an odd name, and a container.
func realStore(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{
		Root: filepath.Join(t.TempDir(), "s"), Backend: "dir", New: backendtest.NewDir, Sync: store.SyncNone,
	})
	assert.NilError(t, err)
	t.Cleanup(func() { assert.Check(t, s.Close(context.WithoutCancel(t.Context()))) })
	for _, l := range [][2]string{{"base", ""}, {"containerd/..", "base"}, {"container", "containerd/.."}} {
		assert.NilError(t, s.Create(t.Context(), l[0], l[1], store.CreateOptions{}))
	}
	return s
}

// FuzzWire sends any body to any path with any method: no panic, and every failure has a class and a text.
func FuzzWire(f *testing.F) {
	if os.Geteuid() != 0 {
		f.Skip("needs root: mounts layers")
	}
	for _, path := range []string{
		"version", "info", "layers", "tree", "stores", "usage", "leaving", "options", "layers/base", "layers/containerd%2F..", "layers/..",
		"layers/base/usage", "layers/base/path", "layers/container/changes", "layers/container/changes?parent=base", "layers/base/changes?parent=container",
		"layers/container/diff?parent=", "layers/container/diff?parent=%00", "layers/base/export", "layers/none/export", "layers//export", "nothing",
	} {
		f.Add("GET", "/strata/v1/"+path, []byte(nil))
	}
	f.Add("GET", "/metrics", []byte(nil))
	f.Add("HEAD", "/strata/v1/usage", []byte(nil))
	f.Add("DELETE", "/strata/v1/layers/base", []byte(nil))
	f.Add("POST", "/strata/v1//gc", []byte(nil))
	for _, seed := range [][2]string{
		{"options", `{"sync":"none"}`},
		{"options", `{"":""}`},
		{"check", `{"deep":true,"repair":true}`},
		{"check", `null`},
		{"gc", `{"known":["base"],"yes":true}`},
		{"gc", `{"yes":true}{"known":["base"]}`},
		{"gc", `{"known":null}`},
		{"adopt", `{"yes":true}`},
		{"layers/new/clone", `{"template":"base","limit":-1,"label":"x","labels":{"strata/kind":"view"}}`},
		{"layers/containerd%2Fnew/clone", `{"template":"container","labels":{"":"x"}}`},
		{"layers/new%00/clone", `{"template":"container"}`},
		{"layers/new/clone", `{"template":"base","idmap":{"uids":[{"container_id":0,"host_id":4294967295,"size":2}],"gids":[]}}`},
		{"layers/container/idmap", `{"idmap":{"uids":[{"container_id":0,"host_id":1,"size":2}],"gids":[{"container_id":0,"host_id":1,"size":2}]}}`},
		{"layers/base/idmap", `{"idmap":null}`},
	} {
		f.Add("POST", "/strata/v1/"+seed[0], []byte(seed[1]))
	}
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	ctx := log.WithLogger(context.Background(), logrus.NewEntry(logger))
	f.Fuzz(func(t *testing.T, method, target string, body []byte) {
		u, err := url.ParseRequestURI(target)
		if err != nil || u.Path == "*" {
			return // net/http refuses it
		}
		s := realStore(t)
		open := func(context.Context) (control.Store, error) { return s, nil }
		h := control.New(control.Options{
			Store: open, Settings: &settings{"layer"}, Metrics: control.NewMetrics(control.Version{}, open),
			Place: func(context.Context) control.Place { return control.Place{} },
		})
		r := (&http.Request{Method: method, URL: u, Host: "x", RequestURI: target, Body: io.NopCloser(bytes.NewReader(body)), Header: http.Header{}}).WithContext(ctx)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		checkAnswer(t, w)
	})
}

// checkAnswer wants an error with a class from whatever has failed.
func checkAnswer(t *testing.T, w *httptest.ResponseRecorder) {
	t.Helper()
	text := w.Body.String()
	switch {
	case w.Code == http.StatusOK && w.Header().Get("Content-Type") == "application/x-ndjson":
		lines := strings.Split(strings.TrimSpace(text), "\n")
		var end struct {
			Done  bool
			Error *control.Error
		}
		assert.NilError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &end), text)
		assert.Assert(t, end.Done || end.Error != nil && end.Error.Class != "", text)
	case w.Code == http.StatusOK, w.Header().Get("Location") != "": // where the path is without dots and double slashes
	case strings.HasPrefix(w.Header().Get("Content-Type"), "text/"): // net/http's own, before a handler
		assert.Assert(t, w.Code < http.StatusInternalServerError, "%d: %s", w.Code, text)
	default:
		var e control.Error
		assert.NilError(t, json.Unmarshal([]byte(text), &e), "%d: %s", w.Code, text)
		assert.Assert(t, e.Text != "" && e.Class != "" && w.Code != http.StatusInternalServerError, "%d: %s", w.Code, text)
	}
}
