package control_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/backendtest"
	"strata/backend/store"
	"strata/plugin"
	"strata/plugin/config"
	"strata/plugin/control"
	"strata/plugin/control/controltest"
)

// settings is a control.Settings that knows one live option.
type settings struct{ sync string }

func (s *settings) Options(context.Context) ([]config.Setting, error) {
	return []config.Setting{{Option: config.Option{Key: "sync", Change: config.Live}, Value: s.sync, Source: "default"}}, nil
}

func (s *settings) SetOptions(_ context.Context, values map[string]string) ([]config.Outcome, error) {
	v, ok := values["sync"]
	if !ok {
		return nil, fmt.Errorf("unknown option: %w", errdefs.ErrInvalidArgument)
	}
	s.sync = v
	return []config.Outcome{{Key: "sync", Value: v, Live: true}}, nil
}

// serve starts a server for the store on a unix socket and returns a client and the socket.
func serve(t *testing.T, open func(context.Context) (control.Store, error)) (*control.Client, string) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s.sock")
	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", socket)
	assert.NilError(t, err)
	v := control.Version{Version: "1.2.3", Revision: "abc", Go: "go1"}
	metrics := control.NewMetrics(v, open)
	for _, c := range []plugin.Call{
		{Op: "Diff", Took: 20 * time.Millisecond, Out: 4096},
		{Op: "ApplyDiff", Took: time.Second, In: 512, Err: fmt.Errorf("x: %w", errdefs.ErrNotFound)},
		{Op: "Get", Took: time.Second, Err: errors.New("unclassified")},
	} {
		c.Protocol = plugin.ProtocolGraphDriver
		metrics.ObserveCall(c)
	}
	srv := httptest.NewUnstartedServer(control.New(control.Options{
		Store: open, Settings: &settings{"layer"}, Metrics: metrics, Version: v,
		Place: func(context.Context) control.Place {
			return control.Place{HostRoot: "/host/store", Warnings: []string{"beware"}}
		},
		HostText: plugin.Renamer(map[string]string{"/store": "/host/store"}),
	}))
	srv.Listener = l
	srv.Start()
	c := control.Dial(socket)
	t.Cleanup(func() {
		assert.Check(t, c.Close())
		srv.Close()
	})
	return c, socket
}

func fake(t *testing.T, f *controltest.Fake) *control.Client {
	t.Helper()
	c, _ := serve(t, func(context.Context) (control.Store, error) { return f, nil })
	return c
}

func TestReading(t *testing.T) {
	f, ctx := controltest.New(), t.Context()
	c := fake(t, f)
	a, b := controltest.Hex('a'), controltest.Hex('b')

	v, err := c.Version(ctx)
	assert.NilError(t, err)
	assert.Equal(t, v.Version, "1.2.3")

	want, err := f.Info(ctx)
	assert.NilError(t, err)
	info, err := c.Describe(ctx)
	assert.NilError(t, err)
	want.Root, want.MountDir = "/host/store", "/host/store/mnt"
	assert.DeepEqual(t, info.StoreInfo, want)
	assert.DeepEqual(t, info.Place, control.Place{HostRoot: "/host/store", Warnings: []string{"beware"}})
	plain, err := c.Info(ctx)
	assert.NilError(t, err)
	assert.DeepEqual(t, plain, want)

	list, err := c.List(ctx)
	assert.NilError(t, err)
	assert.Equal(t, list[2].MountDir, "/host"+f.Layers[2].MountDir)
	list[2].MountDir = f.Layers[2].MountDir
	assert.DeepEqual(t, list, f.Layers)
	one, err := c.Stat(ctx, b)
	assert.NilError(t, err)
	assert.DeepEqual(t, one, f.Layers[1])
	u, err := c.Usage(ctx, b)
	assert.NilError(t, err)
	assert.Equal(t, u, backend.Usage{Size: 2048, Inodes: 1})
	stores, err := c.Stores(ctx)
	assert.NilError(t, err)
	assert.DeepEqual(t, stores, []string{"/other"})
	p, err := c.Path(ctx, controltest.Hex('c'))
	assert.NilError(t, err)
	assert.DeepEqual(t, p, control.LayerPath{ID: "idc", MountDir: "/host/store/mnt/idc", Mounted: true})

	changes, err := backendtest.Collect(c.Changes(ctx, b, a))
	assert.NilError(t, err)
	direct, err := backendtest.Collect(f.Changes(ctx, b, a))
	assert.NilError(t, err)
	assert.DeepEqual(t, changes, direct)
}

func TestUsageOfAllLayers(t *testing.T) {
	f := controltest.New()
	f.Layers[0].Store = "/other"
	f.Layers[1].State = store.StateRemoving
	var names []string
	err := fake(t, f).EachUsage(t.Context(), func(u control.LayerUsage) error {
		names = append(names, strings.TrimSpace(u.Name[:1]+" "+u.Removed))
		return nil
	})
	assert.NilError(t, err)
	assert.DeepEqual(t, names, []string{ // not that of another store
		"c", "c", "0", "7 being deleted", "8 kept until its children are gone",
	})
	stop := errors.New("enough")
	err = fake(t, f).EachUsage(t.Context(), func(control.LayerUsage) error { return stop })
	assert.ErrorIs(t, err, stop)
}

// whileAt is a store in which something happens to layers between List and Usage.
type whileAt struct {
	control.Reader
	meanwhile map[string]error
}

func (w whileAt) Usage(ctx context.Context, name string) (backend.Usage, error) {
	if err := w.meanwhile[name]; err != nil {
		return backend.Usage{}, err
	}
	return w.Reader.Usage(ctx, name)
}

// TestUsageWhileLayersComeAndGo: a layer that cannot be measured just now is left out, and a damaged one named as such, whatever stands
// behind it in the list.
func TestUsageWhileLayersComeAndGo(t *testing.T) {
	f := controltest.New()
	f.Layers[3].Link, f.Layers[4].Link = true, true
	var names []string
	note := func(u control.LayerUsage) error {
		names = append(names, strings.TrimSpace(u.Name[:1]+" "+u.Damaged))
		return nil
	}
	w := whileAt{f, map[string]error{
		controltest.Hex('a'): fmt.Errorf("it is applying: %w", errdefs.ErrFailedPrecondition),
		controltest.Hex('b'): fmt.Errorf("it was removed: %w", errdefs.ErrAborted),
		controltest.Hex('c'): fmt.Errorf("layer: %w", errdefs.ErrNotFound),
	}}
	assert.NilError(t, control.EachUsage(t.Context(), w, note))
	assert.DeepEqual(t, names, []string{"c", "0", "7", "8"})
	names, w.meanwhile[controltest.Hex('b')] = nil, errdefs.ErrDataLoss
	assert.NilError(t, control.EachUsage(t.Context(), w, note))
	assert.DeepEqual(t, names, []string{"b data loss", "c", "0", "7", "8"})
	w.meanwhile[controltest.Hex('b')] = errdefs.ErrInternal
	assert.ErrorIs(t, control.EachUsage(t.Context(), w, note), errdefs.ErrInternal)
}

func TestDiff(t *testing.T) {
	f := controltest.New()
	f.Tar = bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB: more than any buffer
	c := fake(t, f)
	var got bytes.Buffer
	assert.NilError(t, c.Diff(t.Context(), controltest.Hex('b'), controltest.Hex('a'), &got))
	assert.Assert(t, bytes.Equal(got.Bytes(), f.Tar))
	assert.NilError(t, c.Diff(t.Context(), controltest.Hex('b'), "", io.Discard))
	assert.DeepEqual(t, f.Calls(), []string{
		"Diff " + controltest.Hex('b') + " " + controltest.Hex('a'), "Diff " + controltest.Hex('b') + " ",
	})
}

// TestRawDiff holds the two ways that the client does not use: no parent is the layer's own, and
// export is the difference from nothing.
func TestRawDiff(t *testing.T) {
	f := controltest.New()
	_, socket := serve(t, func(context.Context) (control.Store, error) { return f, nil })
	for _, path := range []string{"diff", "export", "diff?parent=x"} {
		resp, body := get(t, socket, "/strata/v1/layers/"+controltest.Hex('b')+"/"+path)
		assert.Equal(t, resp.StatusCode, http.StatusOK)
		assert.Equal(t, resp.Header.Get("Content-Type"), "application/x-tar")
		assert.Equal(t, body, string(f.Tar))
	}
	b := "Diff " + controltest.Hex('b') + " "
	assert.DeepEqual(t, f.Calls(), []string{b + controltest.Hex('a'), b, b + "x"})
}

func TestDiffThatFails(t *testing.T) {
	for _, tc := range []struct {
		name string
		tar  int // bytes written before the failure
		want string
	}{
		{"before the first byte", 0, "no such thing"},
		{"in the buffer", 100, "no such thing"}, // nothing has left the server yet
		{"in the middle", 1 << 20, "unexpected EOF"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := controltest.New()
			f.Tar = make([]byte, tc.tar)
			f.Fail("Diff", fmt.Errorf("no such thing: %w", errdefs.ErrNotFound))
			err := fake(t, f).Diff(t.Context(), controltest.Hex('b'), "", io.Discard)
			assert.ErrorContains(t, err, tc.want)
		})
	}
}

func TestCheck(t *testing.T) {
	f := controltest.New()
	want := []store.Finding{{Kind: store.FindingMissingData, Layer: "x", Detail: "gone"}, {Kind: store.FindingChanged, Layer: "y", Detail: "odd"}}
	f.Find(want...)
	c := fake(t, f)
	var seen [][2]int
	found, err := c.Check(t.Context(), store.CheckOptions{Deep: true, Progress: func(done, total int) { seen = append(seen, [2]int{done, total}) }})
	assert.NilError(t, err)
	assert.DeepEqual(t, found, want)
	assert.DeepEqual(t, seen, [][2]int{{1, 5}, {5, 5}})
	found, err = c.Check(t.Context(), store.CheckOptions{Repair: true})
	assert.NilError(t, err)
	assert.Equal(t, found[0].Repaired, "removed")
	assert.DeepEqual(t, f.Calls(), []string{"Check deep=true repair=false", "Check deep=false repair=true"})
}

// TestAFailureAfterEvents must reach the client although the status was 200.
func TestAFailureAfterEvents(t *testing.T) {
	f := controltest.New()
	f.Find(store.Finding{Kind: store.FindingChanged})
	f.Fail("Check", fmt.Errorf("disk on fire: %w", errdefs.ErrDataLoss))
	found, err := fake(t, f).Check(t.Context(), store.CheckOptions{})
	assert.ErrorContains(t, err, "disk on fire")
	assert.Assert(t, errdefs.IsDataLoss(err))
	assert.Equal(t, len(found), 1)
}

func TestAnAnswerThatIsCut(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s.sock")
	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", socket)
	assert.NilError(t, err)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"finding":{"kind":"backend"}}`+"\n") // the test looks at what arrives
	}))
	srv.Listener = l
	srv.Start()
	defer srv.Close()
	_, err = control.Dial(socket).Check(t.Context(), store.CheckOptions{})
	assert.ErrorContains(t, err, "cut")
}

func TestGC(t *testing.T) {
	f := controltest.New()
	c := fake(t, f)
	orphans, err := c.GC(t.Context(), store.GCOptions{})
	assert.NilError(t, err)
	assert.Equal(t, len(orphans), 0)
	orphans, err = c.GC(t.Context(), store.GCOptions{Known: map[string]bool{}})
	assert.NilError(t, err)
	assert.Equal(t, len(orphans), 5, "an empty list of known names is not the same as none")
	known := map[string]bool{controltest.Hex('a'): true, controltest.Hex('b'): true, controltest.Hex('c'): false}
	orphans, err = c.GC(t.Context(), store.GCOptions{Known: known, Yes: true})
	assert.NilError(t, err)
	assert.Equal(t, len(orphans), 3)
	assert.Assert(t, orphans[0].Removed)
	assert.DeepEqual(t, f.Calls(), []string{"GC known=0 yes=false", "GC known=0 yes=false", "GC known=2 yes=true"})
}

func TestAdopt(t *testing.T) {
	f := controltest.New()
	c := fake(t, f)
	for _, yes := range []bool{false, true} {
		list, err := c.Adopt(t.Context(), yes)
		assert.NilError(t, err)
		assert.DeepEqual(t, list, []store.Adoption{
			{Name: controltest.Hex('d'), Adopted: yes},
			{Name: controltest.Hex('e'), Parent: controltest.Hex('d'), Adopted: yes},
		})
	}
	assert.DeepEqual(t, f.Calls(), []string{"Adopt yes=false", "Adopt yes=true"})
}

func TestCloneAndIDMap(t *testing.T) {
	f := controltest.New()
	c := fake(t, f)
	o := store.CreateOptions{Limit: 5, Label: "l", Labels: map[string]string{"k": "v"}}
	assert.NilError(t, c.Clone(t.Context(), "new", "old", o))
	assert.NilError(t, c.SetIDMap(t.Context(), "new", nil))
	assert.NilError(t, c.SetIDMap(t.Context(), "new", &backend.IDMap{UIDs: []backend.IDRange{{Container: 0, Host: 1000, Size: 1}}}))
	assert.DeepEqual(t, f.Calls(), []string{"Clone new old limit=5 label=l labels=map[k:v]", "SetIDMap new false", "SetIDMap new true"})
}

func TestOptions(t *testing.T) {
	c := fake(t, controltest.New())
	changes, err := c.SetOptions(t.Context(), map[string]string{"sync": "none"})
	assert.NilError(t, err)
	assert.DeepEqual(t, changes, []config.Outcome{{Key: "sync", Value: "none", Live: true}})
	list, err := c.Options(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, list[0].Value, "none")
	_, err = c.SetOptions(t.Context(), map[string]string{"snyc": "none"})
	assert.Assert(t, errdefs.IsInvalidArgument(err), "%v", err)
}

// TestErrorsNameTheHostsPaths: whatever the plugin says about paths, a user can follow it.
func TestErrorsNameTheHostsPaths(t *testing.T) {
	f := controltest.New()
	c := fake(t, f)
	f.Find(store.Finding{Kind: store.FindingBackend, Detail: "/store/x is odd"})
	found, err := c.Check(t.Context(), store.CheckOptions{})
	assert.NilError(t, err)
	assert.Equal(t, found[0].Detail, "/host/store/x is odd")
	broken := errors.New("open /store/x: no")
	for _, method := range []string{"List", "Check", "Diff"} { // one of each kind of answer
		f.Fail(method, broken)
	}
	f.Tar = nil
	_, err = c.List(t.Context())
	assert.Error(t, err, "open /host/store/x: no")
	_, err = c.Check(t.Context(), store.CheckOptions{})
	assert.Error(t, err, "open /host/store/x: no")
	err = c.Diff(t.Context(), controltest.Hex('b'), "", io.Discard)
	assert.Error(t, err, "open /host/store/x: no")
}

// TestClassesSurvive sends an error of each class through a server and looks at it in the client.
func TestClassesSurvive(t *testing.T) {
	for _, class := range []error{
		errdefs.ErrInvalidArgument, errdefs.ErrNotFound, errdefs.ErrAlreadyExists, errdefs.ErrFailedPrecondition, errdefs.ErrConflict, errdefs.ErrUnavailable,
		errdefs.ErrNotImplemented, errdefs.ErrResourceExhausted, errdefs.ErrPermissionDenied, errdefs.ErrDataLoss, errdefs.ErrAborted,
	} {
		t.Run(class.Error(), func(t *testing.T) {
			f := controltest.New()
			f.Fail("Clone", fmt.Errorf("layer z: %w", class))
			err := fake(t, f).Clone(t.Context(), "y", "z", store.CreateOptions{})
			assert.ErrorIs(t, err, class)
			assert.Error(t, err, plugin.Plain("layer z: "+class.Error()))
		})
	}
	f := controltest.New()
	f.Fail("Clone", errors.New("plain"))
	err := fake(t, f).Clone(t.Context(), "y", "z", store.CreateOptions{})
	assert.Error(t, err, "plain")
}

func TestBeforeInit(t *testing.T) {
	c, socket := serve(t, func(context.Context) (control.Store, error) {
		return nil, fmt.Errorf("no store yet: %w", errdefs.ErrUnavailable)
	})
	_, err := c.Version(t.Context())
	assert.NilError(t, err)
	calls := map[string]func() error{
		"info":   func() error { _, err := c.Info(t.Context()); return err },
		"list":   func() error { _, err := c.List(t.Context()); return err },
		"stat":   func() error { _, err := c.Stat(t.Context(), "x"); return err },
		"usage":  func() error { return c.EachUsage(t.Context(), nil) },
		"layer":  func() error { _, err := c.Usage(t.Context(), "x"); return err },
		"check":  func() error { _, err := c.Check(t.Context(), store.CheckOptions{}); return err },
		"gc":     func() error { _, err := c.GC(t.Context(), store.GCOptions{}); return err },
		"diff":   func() error { return c.Diff(t.Context(), "x", "", io.Discard) },
		"change": func() error { _, err := backendtest.Collect(c.Changes(t.Context(), "x", "")); return err },
		"clone":  func() error { return c.Clone(t.Context(), "x", "y", store.CreateOptions{}) },
		"idmap":  func() error { return c.SetIDMap(t.Context(), "x", nil) },
	}
	for name, call := range calls {
		err := call()
		assert.Assert(t, errdefs.IsUnavailable(err), "%s: %v", name, err)
	}
	_, body := get(t, socket, "/metrics")
	assert.Assert(t, strings.Contains(body, "strata_store_open 0\n"), body)
}

func TestNobodyAnswers(t *testing.T) {
	_, err := control.Dial(filepath.Join(t.TempDir(), "none")).Version(t.Context())
	assert.Assert(t, errdefs.IsUnavailable(err), "%v", err)
}

// TestHangUpStopsTheWork: when a client goes away, the store's context ends.
func TestHangUpStopsTheWork(t *testing.T) {
	f := controltest.New()
	started, stopped := make(chan struct{}), make(chan struct{})
	f.Before = func(ctx context.Context, method string) {
		if method != "Check" {
			return
		}
		close(started)
		select {
		case <-ctx.Done():
			close(stopped)
		case <-time.After(10 * time.Second):
		}
	}
	ctx, hangUp := context.WithCancel(t.Context())
	go func() {
		<-started
		hangUp()
	}()
	_, err := fake(t, f).Check(ctx, store.CheckOptions{})
	assert.ErrorIs(t, err, context.Canceled)
	select {
	case <-stopped:
	case <-time.After(5 * time.Second):
		t.Fatal("the store worked on")
	}
}

// get sends a raw request.
func get(t *testing.T, socket, path string) (*http.Response, string) {
	t.Helper()
	return send(t, socket, http.MethodGet, path, "")
}

func send(t *testing.T, socket, method, path, body string) (*http.Response, string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	r, err := http.NewRequestWithContext(t.Context(), method, "http://x"+path, strings.NewReader(body))
	assert.NilError(t, err)
	resp, err := client.Do(r)
	assert.NilError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	assert.NilError(t, err)
	return resp, string(text)
}

func TestBadRequests(t *testing.T) {
	_, socket := serve(t, func(context.Context) (control.Store, error) { return controltest.New(), nil })
	for _, tc := range []struct {
		name, method, path, body string
		status                   int
		class                    string
	}{
		{"unknown path", "GET", "/strata/v1/nope", "", 404, "not-found"},
		{"wrong method", "GET", "/strata/v1/check", "", 404, "not-found"},
		{"empty body", "POST", "/strata/v1/check", "", 400, "invalid-argument"},
		{"not JSON", "POST", "/strata/v1/gc", "yes please", 400, "invalid-argument"},
		{"unknown member", "POST", "/strata/v1/gc", `{"sure":true}`, 400, "invalid-argument"},
		{"too large", "POST", "/strata/v1/gc", `{"known":["` + strings.Repeat("a", 33<<20), 400, "invalid-argument"},
		{"too large for settings", "POST", "/strata/v1/options", `{"` + strings.Repeat("a", 2<<20), 400, "invalid-argument"},
		{"too large after all", "POST", "/strata/v1/layers/zz/idmap", `{}` + strings.Repeat(" ", 2<<20), 400, "invalid-argument"},
		{"two values", "POST", "/strata/v1/gc", `{"known":[]}{"yes":true}`, 400, "invalid-argument"},
		{"unknown layer", "GET", "/strata/v1/layers/zz", "", 404, "not-found"},
		{"unknown layer's diff", "GET", "/strata/v1/layers/zz/diff", "", 404, "not-found"},
		{"a name with a slash", "GET", "/strata/v1/layers/..%2Fx", "", 404, "not-found"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			resp, body := send(t, socket, tc.method, tc.path, tc.body)
			assert.Equal(t, resp.StatusCode, tc.status, body)
			var e control.Error
			assert.NilError(t, json.Unmarshal([]byte(body), &e))
			assert.Equal(t, e.Class, tc.class)
			assert.Assert(t, e.Text != "")
		})
	}
}

func TestEmptyListsAreNotNull(t *testing.T) {
	f := controltest.New()
	f.Layers = nil
	_, socket := serve(t, func(context.Context) (control.Store, error) { return f, nil })
	for _, path := range []string{"layers", "tree"} {
		_, body := get(t, socket, "/strata/v1/"+path)
		assert.Equal(t, body, "[]\n", path)
	}
}

func TestMetrics(t *testing.T) {
	_, socket := serve(t, func(context.Context) (control.Store, error) { return controltest.New(), nil })
	resp, body := get(t, socket, "/metrics")
	assert.Equal(t, resp.StatusCode, http.StatusOK)
	for _, line := range []string{
		`strata_calls_total{op="Diff",protocol="graphdriver"} 1`,
		`strata_calls_total{op="ApplyDiff",protocol="graphdriver"} 1`,
		`strata_errors_total{class="not-found",op="ApplyDiff",protocol="graphdriver"} 1`,
		`strata_errors_total{class="other",op="Get",protocol="graphdriver"} 1`,
		`strata_call_duration_seconds_count{op="Diff",protocol="graphdriver"} 1`,
		`strata_call_duration_seconds_bucket{op="Diff",protocol="graphdriver",le="0.032"} 1`,
		`strata_bytes_total{direction="in",op="ApplyDiff",protocol="graphdriver"} 512`,
		`strata_bytes_total{direction="out",op="Diff",protocol="graphdriver"} 4096`,
		`strata_layers{state="ready"} 5`,
		`strata_layers{state="removing"} 2`,
		`strata_layers{state="applying"} 0`,
		`strata_mounts 1`,
		`strata_deletions_pending 2`,
		`strata_store_open 1`,
		`strata_store_info{backend="thick",exact_diffs="true",format="1",root="/store",sync="layer",uuid="u-u-i-d"} 1`,
		`strata_build_info{go="go1",revision="abc",version="1.2.3"} 1`,
	} {
		assert.Assert(t, strings.Contains(body, line+"\n"), "%s is missing in:\n%s", line, body)
	}
	assert.Assert(t, !strings.Contains(body, `strata_errors_total{class="other",op="Diff",protocol="graphdriver"}`))
}

func TestMetricsOfAStoreThatFails(t *testing.T) {
	f := controltest.New()
	f.Fail("Info", errors.New("broken"))
	_, socket := serve(t, func(context.Context) (control.Store, error) { return f, nil })
	resp, body := get(t, socket, "/metrics")
	assert.Equal(t, resp.StatusCode, http.StatusInternalServerError)
	assert.Assert(t, strings.Contains(body, "broken"), body)
}

func TestTree(t *testing.T) {
	list := []store.Info{{Name: "c", Parent: "a"}, {Name: "b", Parent: "a"}, {Name: "a"}, {Name: "lost", Parent: "gone"}, {Name: "d", Parent: "c"}, {Name: "self", Parent: "self"}}
	var draw func(nodes []*control.Node) string
	draw = func(nodes []*control.Node) string {
		var parts []string
		for _, n := range nodes {
			parts = append(parts, n.Name+draw(n.On))
		}
		if parts == nil {
			return ""
		}
		return "(" + strings.Join(parts, " ") + ")"
	}
	assert.Equal(t, draw(control.Tree(list)), "(a(b c(d)) lost self)")
}

// TestChangesComeAsTheyAreFound: a list of any length is on its way before its end is known, and is never in memory as a whole.
func TestChangesComeAsTheyAreFound(t *testing.T) {
	f, ended := controltest.New(), make(chan struct{})
	f.OnChanges = func(ctx context.Context) iter.Seq2[backend.Change, error] {
		return func(yield func(backend.Change, error) bool) {
			defer close(ended)
			for ctx.Err() == nil { // without an end of its own
				if !yield(backend.Change{Path: "/" + strings.Repeat("d", 1000), Kind: backend.Added}, nil) {
					return
				}
			}
		}
	}
	got := 0
	for _, err := range fake(t, f).Changes(t.Context(), "x", "") {
		assert.NilError(t, err)
		if got++; got == 10000 {
			break
		}
	}
	assert.Equal(t, got, 10000)
	<-ended
}

// TestChangesThatBreakOff: a list that ends with an error is not taken for a whole one.
func TestChangesThatBreakOff(t *testing.T) {
	for name, n := range map[string]int{"before the first": 0, "within the buffer": 1, "late": 100000} {
		t.Run(name, func(t *testing.T) {
			f := controltest.New()
			f.OnChanges = func(context.Context) iter.Seq2[backend.Change, error] {
				return backendtest.Sequence(slices.Repeat([]backend.Change{{Path: "/x"}}, n), fmt.Errorf("rotten: %w", errdefs.ErrDataLoss))
			}
			_, err := backendtest.Collect(fake(t, f).Changes(t.Context(), "x", ""))
			if n < 2 {
				assert.Assert(t, errdefs.IsDataLoss(err), "%v", err)
				return
			}
			assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
		})
	}
}
