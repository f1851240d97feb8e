package graphdriver

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"testing"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"

	"strata/backend"
	"strata/backend/backendtest"
	"strata/backend/store"
	"strata/plugin/keeper"
)

// strict is a store that checks what the handler lets through.
type strict struct{ t *testing.T }

func (s strict) name(id string) {
	if !idGrammar.MatchString(id) {
		s.t.Errorf("the store was asked for layer %q", id)
	}
}

func (s strict) names(id, parent string) {
	s.name(id)
	if parent != "" {
		s.name(parent)
	}
}

func (s strict) Create(_ context.Context, name, parent string, o store.CreateOptions) error {
	s.names(name, parent)
	if o.Limit < 0 {
		s.t.Errorf("limit %d", o.Limit)
	}
	return nil
}

func (s strict) Discard(_ context.Context, name string) error { s.name(name); return nil }

func (s strict) Mount(_ context.Context, name string, _ store.MountOptions) (string, error) {
	s.name(name)
	return "/mnt/" + name, nil
}

func (s strict) Unmount(_ context.Context, name string) error { s.name(name); return nil }

func (s strict) Apply(_ context.Context, name string, r io.Reader) (int64, error) {
	s.name(name)
	return io.Copy(io.Discard, r)
}

func (s strict) Diff(_ context.Context, name, parent string, _ io.Writer) error {
	s.names(name, parent)
	return nil
}

func (s strict) Changes(_ context.Context, name, parent string) iter.Seq2[backend.Change, error] {
	s.names(name, parent)
	return backendtest.Sequence(nil, nil)
}

func (s strict) DiffSize(_ context.Context, name, parent string) (int64, error) {
	s.names(name, parent)
	return 0, nil
}

func (s strict) Stat(_ context.Context, name string) (store.Info, error) {
	s.name(name)
	return store.Info{}, nil
}

func (s strict) Describe(_ context.Context, name string) ([]backend.Field, error) {
	s.name(name)
	return nil, nil
}

func (s strict) Info(context.Context) (store.StoreInfo, error) { return store.StoreInfo{}, nil }
func (strict) UnmountAll(context.Context) error                { return nil }

func (s strict) Damaged() int                { return 0 }
func (s strict) Close(context.Context) error { return nil }

func (s strict) SetSync(store.SyncMode) error { return nil }

// FuzzWire sends any query and body to every method: no panic, no odd layer name at the store, and
// every answer is one that Docker understands. Whether an Init came before is fuzzed too.
func FuzzWire(f *testing.F) {
	layer := id("a")
	for _, seed := range []struct {
		method, query, body string
		attached            bool
	}{
		{"Init", "", `{"Home":"/prop/strata","Opts":["backend=vfs"],"UIDMaps":[{"container_id":0,"host_id":1,"size":2}],"GIDMaps":[{"container_id":0,"host_id":1,"size":2}]}`, false},
		{"Init", "", `{"Home":"relative"}`, false},
		{"Create", "", `{"ID":"` + layer + `","Parent":"` + layer + `-init","StorageOpt":{"size":"10G"}}`, true},
		{"Create", "", `{"ID":"` + layer + `","StorageOpt":{"size":"9999999999999999999T"}}`, true},
		{"Get", "", `{"ID":"../..","MountLabel":"x"}`, true},
		{"Get", "", ``, true},
		{"Put", "", `{"ID":["` + layer + `"]}`, true},
		{"Diff", "", `{"ID":"` + layer + `"}{"ID":"` + layer + `"}`, true},
		{"ApplyDiff", "id=" + layer + "&parent=", "tar", true},
		{"ApplyDiff", "id=%2e%2e&parent=" + layer, "tar", true},
		{"ApplyDiff", "id=" + layer + ";parent=x", "", true},
		{"Status", "", `{`, false},
		{"Changes", "", `null`, true},
		{"GetMetadata", "", `{"ID":"` + layer + `","id":"` + layer + `x"}`, true},
	} {
		f.Add(seed.method, seed.query, []byte(seed.body), seed.attached)
	}
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	ctx := log.WithLogger(context.Background(), logrus.NewEntry(logger))
	f.Fuzz(func(t *testing.T, method, query string, body []byte, attached bool) {
		k := keeper.Over(keeping(t, t.TempDir(), nil, nameless()...), func(context.Context, store.Config) (strict, error) { return strict{t}, nil })
		h := New(k, Options{})
		if attached {
			a := &attachment{Layers: strict{t}}
			h.keeper.begun = func() bool { return true }
			h.keeper.session = func(context.Context) (*attachment, error) { return a, nil }
			h.keeper.current = func() *attachment { return a }
		}
		r := (&http.Request{
			Method: http.MethodPost, Body: io.NopCloser(bytes.NewReader(body)),
			URL: &url.URL{Path: "/GraphDriver." + method, RawQuery: query},
		}).WithContext(ctx)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if s := k.Current(); s != nil && !filepath.IsAbs(s.Init.Home) {
			t.Errorf("opened with home %q", s.Init.Home)
		}
		checkAnswer(t, method, w)
	})
}

func checkAnswer(t *testing.T, method string, w *httptest.ResponseRecorder) {
	t.Helper()
	if method == "Diff" && w.Code == http.StatusOK {
		return
	}
	var a answer
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
		t.Fatalf("status %d, body %q: %v", w.Code, w.Body, err)
	}
	switch w.Code {
	case http.StatusOK:
		if a.Err != "" {
			t.Fatalf("an error with status 200: %s", a.Err)
		}
	case http.StatusBadRequest, http.StatusNotFound, http.StatusInternalServerError:
		if a.Err == "" {
			t.Fatalf("status %d without a reason: %s", w.Code, w.Body)
		}
	default:
		t.Fatalf("status %d", w.Code)
	}
}
