package graphdriver

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/log"
	"github.com/docker/docker/pkg/plugins"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/backendtest"
	"strata/backend/store"
	"strata/plugin"
	"strata/plugin/config"
	"strata/plugin/keeper"
)

// id makes a layer's name of a short one.
func id(short string) string {
	return fmt.Sprintf("%x", short) + strings.Repeat("0", 64-2*len(short))
}

// peer is a handler on a socket, and docker's own client of it.
type peer struct {
	t      testing.TB
	h      *Handler
	path   string
	docker *plugins.Client
	http   *http.Client
	stop   func()
	log    *logtest.Hook // what the handler logged
}

// serve runs a handler over k until the test ends, or until stop is called.
func serve[S Store](tb testing.TB, k *keeper.Keeper[S], o Options) *peer {
	tb.Helper()
	return serveWrapped(tb, nil, k, o)
}

// serveWrapped serves what wrap makes of the handler.
func serveWrapped[S Store](tb testing.TB, wrap func(http.Handler) http.Handler, k *keeper.Keeper[S], o Options) *peer {
	tb.Helper()
	h := New(k, o)
	var handler http.Handler = h
	if wrap != nil {
		handler = wrap(h)
	}
	p := &peer{t: tb, h: h, path: filepath.Join(tb.TempDir(), "s")}
	logger, hook := logtest.NewNullLogger()
	logger.SetLevel(logrus.DebugLevel)
	p.log = hook
	ctx, cancel := context.WithCancel(log.WithLogger(tb.Context(), logrus.NewEntry(logger)))
	l, err := plugin.Listen(ctx, p.path)
	assert.NilError(tb, err)
	done := make(chan error, 1)
	go func() { done <- (&plugin.Server{Drain: 5 * time.Second}).Serve(ctx, l, handler) }()
	p.docker, err = plugins.NewClient("unix://"+p.path, nil)
	assert.NilError(tb, err)
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", p.path)
	}}
	p.http = &http.Client{Transport: transport}
	p.stop = sync.OnceFunc(func() {
		cancel()
		transport.CloseIdleConnections()
		assert.Check(tb, <-done)
		assert.Check(tb, k.Close(context.Background()))
	})
	tb.Cleanup(func() { p.stop() })
	return p
}

// answer is what docker decodes a response into.
type answer struct {
	Err          string
	Dir          string
	Exists       bool
	Status       [][2]string
	Changes      []backend.Change
	Size         int64
	Metadata     map[string]string
	Capabilities struct{ ReproducesExactDiffs bool }
	Implements   []string
}

// call makes one call as docker does, with its retries.
func (p *peer) call(method string, args any) (answer, error) {
	var a answer
	err := p.docker.Call("GraphDriver."+method, args, &a)
	return a, err
}

// ok is a call that must succeed.
func (p *peer) ok(method string, args any) answer {
	p.t.Helper()
	a, err := p.call(method, args)
	assert.NilError(p.t, err)
	assert.Equal(p.t, a.Err, "")
	return a
}

func (p *peer) init() answer {
	p.t.Helper()
	return p.ok("Init", keeper.Init{Home: "/prop/strata"})
}

func (p *peer) create(short, parent string) {
	p.t.Helper()
	args := arguments{ID: id(short)}
	if parent != "" {
		args.Parent = id(parent)
	}
	p.ok("Create", args)
}

// apply sends a tar as docker does.
func (p *peer) apply(short, parent string, tar io.Reader) (int64, error) {
	if parent != "" {
		parent = id(parent)
	}
	var a answer
	err := p.docker.SendFile(fmt.Sprintf("GraphDriver.ApplyDiff?id=%s&parent=%s", id(short), parent), tar, &a)
	return a.Size, err
}

// diff receives a tar as docker does.
func (p *peer) diff(short, parent string) ([]byte, error) {
	args := arguments{ID: id(short)}
	if parent != "" {
		args.Parent = id(parent)
	}
	r, err := p.docker.Stream("GraphDriver.Diff", args)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// post makes one request without retries and returns its status and the error in its answer.
func (p *peer) post(path string, body io.Reader) (int, string) {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodPost, "http://plugin"+path, body)
	assert.NilError(p.t, err)
	resp, err := p.http.Do(req)
	assert.NilError(p.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	assert.NilError(p.t, err)
	var a answer
	assert.NilError(p.t, json.Unmarshal(b, &a), "%s", b)
	return resp.StatusCode, a.Err
}

// fake is a store in memory. A hook that is nil does nothing.
type fake struct {
	info    store.StoreInfo
	onApply func(ctx context.Context, r io.Reader) (int64, error)
	onDiff  func(ctx context.Context, w io.Writer) error

	onChanges func(ctx context.Context) iter.Seq2[backend.Change, error]
	onAny     func(op string) error

	mu     sync.Mutex
	calls  []string
	create store.CreateOptions // of the last Create
	mount  store.MountOptions  // of the last Mount
	mounts int
	closed bool
}

func (f *fake) note(format string, args ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	line := fmt.Sprintf(format, args...)
	f.calls = append(f.calls, line)
	if f.onAny != nil {
		return f.onAny(line)
	}
	return nil
}

// take returns the calls made since the last take.
func (f *fake) take() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	calls := f.calls
	f.calls = nil
	return calls
}

func (f *fake) Create(_ context.Context, name, parent string, o store.CreateOptions) error {
	f.mu.Lock()
	f.create = o
	f.mu.Unlock()
	return f.note("create %.6s %.6s", name, parent)
}

func (f *fake) Discard(_ context.Context, name string) error { return f.note("remove %.6s", name) }

func (f *fake) Mount(_ context.Context, name string, o store.MountOptions) (string, error) {
	f.mu.Lock()
	f.mount = o
	f.mounts++
	f.mu.Unlock()
	return "/store/mnt/" + name[:6], f.note("mount %.6s", name)
}

func (f *fake) Unmount(_ context.Context, name string) error {
	f.mu.Lock()
	f.mounts--
	f.mu.Unlock()
	return f.note("unmount %.6s", name)
}

func (f *fake) UnmountAll(context.Context) error {
	f.mu.Lock()
	f.mounts = 0
	f.mu.Unlock()
	return f.note("unmount all")
}

func (f *fake) Apply(ctx context.Context, name string, r io.Reader) (int64, error) {
	if err := f.note("apply %.6s", name); err != nil {
		return 0, err
	}
	if f.onApply != nil {
		return f.onApply(ctx, r)
	}
	return io.Copy(io.Discard, r)
}

func (f *fake) Diff(ctx context.Context, name, parent string, w io.Writer) error {
	if err := f.note("diff %.6s %.6s", name, parent); err != nil {
		return err
	}
	if f.onDiff != nil {
		return f.onDiff(ctx, w)
	}
	_, err := io.WriteString(w, "tar of "+name)
	return err
}

func (f *fake) Changes(ctx context.Context, name, parent string) iter.Seq2[backend.Change, error] {
	if f.onChanges != nil {
		return f.onChanges(ctx)
	}
	return backendtest.Sequence([]backend.Change{
		{Path: "/a", Kind: backend.Modified}, {Path: "/a/b", Kind: backend.Added}, {Path: "/a/c", Kind: backend.Deleted},
	}, f.note("changes %.6s %.6s", name, parent))
}

func (f *fake) DiffSize(_ context.Context, name, parent string) (int64, error) {
	return 1 << 40, f.note("size %.6s %.6s", name, parent)
}

func (f *fake) Describe(context.Context, string) ([]backend.Field, error) { return nil, nil }

func (f *fake) Stat(_ context.Context, name string) (store.Info, error) {
	return store.Info{
		Name: name, ID: "disk", State: store.StateReady, MountDir: "/store/mnt/disk", Limit: 7,
		Parent: id("parent"), Applied: &store.Applied{Digest: "sha256:1"},
	}, f.note("stat %.6s", name)
}

func (f *fake) Info(context.Context) (store.StoreInfo, error) { return f.info, f.note("info") }

func (f *fake) Damaged() int { return 0 }

func (f *fake) Close(context.Context) error {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	return nil
}

// SetSync implements keeper.Store.
func (f *fake) SetSync(m store.SyncMode) error { return f.note("sync %s", m) }

// keeping are the options of a keeper of a store in root, with the given backends and settings.
func keeping(tb testing.TB, root string, pairs []string, backends ...backend.Driver) keeper.Options {
	tb.Helper()
	table := config.NewTable(backends...)
	flags, err := config.FromFlags(append(pairs, "root="+root))
	assert.NilError(tb, err)
	settings, err := table.Resolve(flags)
	assert.NilError(tb, err)
	return keeper.Options{
		Table: table, Sources: []config.Source{flags}, Settings: settings, Place: keeper.Place{Root: root, HostRoot: root}, Version: "test",
	}
}

// nameless are backends that have no options and open nothing.
func nameless() []backend.Driver {
	none := func() any { return &struct{}{} }
	return []backend.Driver{{Name: "fake", Config: none}, {Name: "vfs", Config: none}}
}

// rig is a handler over a fake store, with its Init file in a directory of the test.
type rig struct {
	*peer
	fake   *fake
	k      *keeper.Keeper[Store]
	root   string
	opened []store.Config // what open was given
	open   func(ctx context.Context) (Store, error)
}

func newRig(tb testing.TB, o Options) *rig {
	tb.Helper()
	return newRigIn(tb, tb.TempDir(), o)
}

func newRigIn(tb testing.TB, root string, o Options) *rig {
	tb.Helper()
	r := &rig{root: root, fake: &fake{info: store.StoreInfo{Backend: "fake", Root: "/store"}}}
	r.open = func(context.Context) (Store, error) { return r.fake, nil }
	r.k = keeper.Over(keeping(tb, root, nil, nameless()...), func(ctx context.Context, c store.Config) (Store, error) {
		r.opened = append(r.opened, c)
		return r.open(ctx)
	})
	r.peer = serve(tb, r.k, o)
	return r
}

// saved returns the Init that is kept for the next process.
func saved(t *testing.T, root string) keeper.Init {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, keeper.InitFile))
	assert.NilError(t, err)
	var f struct{ Init keeper.Init }
	assert.NilError(t, json.Unmarshal(text, &f))
	return f.Init
}

// openedWith checks that a handler opened its store once, for this Init.
func openedWith(t *testing.T, r *rig, want keeper.Init) {
	t.Helper()
	assert.Equal(t, len(r.opened), 1)
	assert.DeepEqual(t, r.k.Current().Init, want)
}

func second[T any](_ T, err error) error { return err }

// pattern is a stream of n bytes. Docker's client may still be reading it when a call has returned.
type pattern struct {
	mu   sync.Mutex
	at   int
	size int
}

func (p *pattern) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.at == p.size {
		return 0, io.EOF
	}
	b = b[:min(len(b), p.size-p.at)]
	for i := range b {
		b[i] = byte((p.at + i) * 7 >> 3)
	}
	p.at += len(b)
	return len(b), nil
}
