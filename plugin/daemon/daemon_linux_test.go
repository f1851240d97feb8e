package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/all"
	"strata/backend/backendtest"
	"strata/backend/store"
	"strata/plugin/config"
	"strata/plugin/control"
	"strata/plugin/keeper"
	"strata/plugin/snapshotter"
)

// tested are the backends of the tests: vfs, which works on every file system, with two options.
func tested(t *testing.T) []backend.Driver {
	t.Helper()
	for _, d := range all.Backends() {
		if d.Name == "vfs" {
			return []backend.Driver{{
				Name: "vfs", Summary: d.Summary, Config: func() any { return &vfsOptions{} },
				Open: func(ctx context.Context, env backend.Env, _ any) (backend.Backend, error) {
					return d.Open(ctx, env, d.Config())
				},
			}}
		}
	}
	t.Fatal("there is no vfs")
	return nil
}

// rest is a store at rest.
func rest(t *testing.T, root string, environ []string, flags config.Source) keeper.Rest {
	t.Helper()
	return keeper.Rest{Root: root, Backends: tested(t), Environ: environ, Flags: flags}
}

type vfsOptions struct {
	Color string `option:"color" help:"An option that a restart changes."`
}

// process is a serving daemon, as if in a process of its own.
type process struct {
	t      *testing.T
	root   string
	socket string
	client *control.Client
	stop   func() error // ends it as SIGTERM does
}

func start(t *testing.T, root string, environ, options []string) *process {
	t.Helper()
	return startWith(t, tested(t), root, environ, options)
}

func startWith(t *testing.T, backends []backend.Driver, root string, environ, options []string) *process {
	t.Helper()
	flags, err := config.FromFlags(append(options, "root="+root))
	assert.NilError(t, err)
	socket := filepath.Join(t.TempDir(), "strata.sock")
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, Config{Socket: socket, Backends: backends, Environ: environ, Flags: flags, Version: control.Version{Version: "test"}, Log: io.Discard, Errors: io.Discard})
	}()
	p := &process{t: t, root: root, socket: socket, client: control.Dial(socket)}
	done := false
	p.stop = func() error {
		if done {
			return nil
		}
		done = true
		_ = p.client.Close() // it always succeeds
		cancel()
		return <-ended
	}
	t.Cleanup(func() { assert.Check(t, p.stop()) })
	deadline := time.Now().Add(10 * time.Second)
	for _, err := p.client.Version(t.Context()); err != nil; _, err = p.client.Version(t.Context()) {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("serve ended: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
		assert.Assert(t, time.Now().Before(deadline), "%v", err)
	}
	return p
}

// docker sends a call as dockerd does and returns the answer's members.
func (p *process) docker(method string, body any) (map[string]any, error) {
	p.t.Helper()
	data, err := json.Marshal(body)
	assert.NilError(p.t, err)
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", p.socket)
	}}}
	r, err := http.NewRequestWithContext(p.t.Context(), http.MethodPost, "http://x/"+method, bytes.NewReader(data))
	assert.NilError(p.t, err)
	resp, err := c.Do(r)
	assert.NilError(p.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	assert.NilError(p.t, err)
	answer := map[string]any{}
	assert.NilError(p.t, json.Unmarshal(text, &answer), "%s", text)
	if text, ok := answer["Err"].(string); ok && text != "" {
		return nil, fmt.Errorf("%s: %s", method, text)
	}
	return answer, nil
}

func (p *process) init(opts ...string) error {
	p.t.Helper()
	_, err := p.docker("GraphDriver.Init", map[string]any{"Home": "/var/lib/docker/strata", "Opts": opts})
	return err
}

func (p *process) value(key string) string {
	p.t.Helper()
	list, err := p.client.Options(p.t.Context())
	assert.NilError(p.t, err)
	for _, s := range list {
		if s.Key == key && s.Next != nil {
			return s.Value + " from " + s.Source + ", then " + s.Next.Value + " from " + s.Next.Source
		}
		if s.Key == key {
			return s.Value + " from " + s.Source
		}
	}
	return ""
}

// needRoot skips a test that mounts.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting layers needs root")
	}
}

// aaa is a layer's name as Docker gives it.
const aaa = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

func TestServe(t *testing.T) {
	needRoot(t)
	root := filepath.Join(t.TempDir(), "strata")
	p := start(t, root, []string{"STRATA_LOG_LEVEL=error"}, nil)

	// Before Init there is an answer, but no store.
	_, err := p.client.Info(t.Context())
	assert.Assert(t, errdefs.IsUnavailable(err), "%v", err)
	assert.Equal(t, p.value("log-level"), "error from environment")
	_, err = p.client.SetOptions(t.Context(), map[string]string{"sync": "none"})
	assert.Assert(t, errdefs.IsUnavailable(err), "%v", err)
	_, err = p.docker("GraphDriver.Create", map[string]any{"ID": aaa})
	assert.ErrorContains(t, err, "not initialised")

	assert.NilError(t, p.init("sync=none"))
	i, err := p.client.Describe(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, i.Sync, store.SyncNone)
	assert.Equal(t, i.HostRoot, root)
	assert.Assert(t, i.ExactDiffs, "a new store shall keep exact diffs")
	assert.Equal(t, p.value("sync"), "none from --storage-opt")

	_, err = p.docker("GraphDriver.Create", map[string]any{"ID": aaa})
	assert.NilError(t, err)
	got, err := p.docker("GraphDriver.Get", map[string]any{"ID": aaa})
	assert.NilError(t, err)
	dir, ok := got["Dir"].(string)
	assert.Assert(t, ok && strings.HasPrefix(dir, root+"/mnt/"), "%v", got)
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "file"), []byte("content"), 0o600))
	list, err := p.client.List(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, list[0].Mounts, 1)
	path, err := p.client.Path(t.Context(), aaa)
	assert.NilError(t, err)
	assert.Equal(t, path.MountDir, dir)
	_, err = p.docker("GraphDriver.Put", map[string]any{"ID": aaa})
	assert.NilError(t, err)
	changes, err := backendtest.Collect(p.client.Changes(t.Context(), aaa, ""))
	assert.NilError(t, err)
	assert.DeepEqual(t, changes, []backend.Change{{Path: "/file", Kind: backend.Added}})
	assert.NilError(t, p.stop())

	// A second process is not sent Init, and opens the store as it was, by itself.
	p = start(t, root, []string{"STRATA_LOG_LEVEL=error"}, nil)
	list, err = p.client.List(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, list[0].Name, aaa)
	assert.Equal(t, p.value("sync"), "none from --storage-opt")
}

// TestNoStoreAndADamagedOne: that there is no store yet is said of no store that is damaged.
func TestNoStoreAndADamagedOne(t *testing.T) {
	needRoot(t)
	for _, file := range []string{"strata.json", "config.json", "init.json"} {
		for kind, replace := range map[string]func(path string) error{
			"fifo": func(path string) error { return unix.Mkfifo(path, 0o600) }, "directory": func(path string) error { return os.Mkdir(path, 0o700) },
		} {
			t.Run(file+" is a "+kind, func(t *testing.T) {
				root := filepath.Join(t.TempDir(), "strata")
				p := start(t, root, nil, nil)
				assert.NilError(t, p.init())
				assert.NilError(t, p.stop())
				assert.NilError(t, os.RemoveAll(filepath.Join(root, file)))
				assert.NilError(t, replace(filepath.Join(root, file)))
				p = start(t, root, nil, nil)
				_, err := p.client.List(t.Context())
				assert.ErrorContains(t, err, file+": it is no regular file")
				assert.Assert(t, errdefs.IsFailedPrecondition(err) && !errdefs.IsUnavailable(err), "%v", err)
			})
		}
	}
}

func TestRestAndServedStoreAreTheSame(t *testing.T) {
	needRoot(t)
	root := filepath.Join(t.TempDir(), "strata")
	p := start(t, root, nil, []string{"log-level=error"})
	assert.NilError(t, p.init())
	_, err := p.docker("GraphDriver.Create", map[string]any{"ID": aaa})
	assert.NilError(t, err)
	served, err := p.client.List(t.Context())
	assert.NilError(t, err)

	// Looking needs no lock; writing does.
	_, err = rest(t, root, nil, config.Source{}).Open(t.Context(), true)
	assert.Assert(t, errdefs.IsUnavailable(err), "%v", err)
	for _, write := range []bool{false, true} {
		if write {
			assert.NilError(t, p.stop())
		}
		st, err := rest(t, root, []string{"STRATA_SYNC=none"}, config.Source{}).Open(t.Context(), write)
		assert.NilError(t, err)
		list, err := st.List(t.Context())
		assert.NilError(t, err)
		assert.DeepEqual(t, list, served)
		found, err := st.Check(t.Context(), store.CheckOptions{Repair: write})
		assert.NilError(t, err)
		assert.Equal(t, len(found), 0)
		assert.NilError(t, st.Close(t.Context()))
	}
}

// TestStoresAtRest: a store at rest finds the additional stores that dockerd named, and those of the
// command line.
func TestStoresAtRest(t *testing.T) {
	needRoot(t)
	lower, root := filepath.Join(t.TempDir(), "lower"), filepath.Join(t.TempDir(), "strata")
	p := start(t, lower, nil, nil)
	assert.NilError(t, p.init())
	for _, layer := range []map[string]any{{"ID": aaa}, {"ID": aaa + "-init", "Parent": aaa}} {
		_, err := p.docker("GraphDriver.Create", layer)
		assert.NilError(t, err)
	}
	assert.NilError(t, p.stop())

	p = start(t, root, nil, nil)
	assert.NilError(t, p.init("stores="+lower))
	_, err := p.docker("GraphDriver.Create", map[string]any{"ID": strings.Repeat("b", 64), "Parent": aaa})
	assert.NilError(t, err)
	assert.NilError(t, p.stop())

	findings := func(options ...string) int {
		flags, err := config.FromFlags(options)
		assert.NilError(t, err)
		st, err := rest(t, root, nil, flags).Open(t.Context(), false)
		assert.NilError(t, err)
		found, err := st.Check(t.Context(), store.CheckOptions{})
		assert.NilError(t, err)
		assert.NilError(t, st.Close(t.Context()))
		return len(found)
	}
	assert.Equal(t, findings(), 0)
	assert.NilError(t, os.Remove(filepath.Join(root, keeper.InitFile)))
	assert.Equal(t, findings(), 1, "without its parent's store the layer cannot be whole")
	assert.Equal(t, findings("stores="+lower), 0)
	assert.NilError(t, os.WriteFile(filepath.Join(root, keeper.InitFile), []byte("{"), 0o600))
	_, err = rest(t, root, nil, config.Source{}).Open(t.Context(), false)
	assert.Assert(t, errdefs.IsDataLoss(err), "%v", err)
}

func TestNoStoreAtRest(t *testing.T) {
	_, err := rest(t, t.TempDir(), nil, config.Source{}).Open(t.Context(), false)
	assert.Assert(t, errdefs.IsNotFound(err), "%v", err)
	root := t.TempDir()
	for text, want := range map[string]func(error) bool{"": errdefs.IsDataLoss, "{}": errdefs.IsDataLoss, "[]\n": errdefs.IsDataLoss, `{"format":1,"backend":"zip"}` + "\n2e55b041\n": errdefs.IsInvalidArgument} {
		assert.NilError(t, os.WriteFile(filepath.Join(root, "strata.json"), []byte(text), 0o600))
		_, err := rest(t, root, nil, config.Source{}).Open(t.Context(), false)
		assert.Assert(t, want(err), "%q: %v", text, err)
	}
}

// other makes a store of a backend, or of vfs under another name.
func other(t *testing.T, name string) (root string) {
	t.Helper()
	root = filepath.Join(t.TempDir(), name)
	st, err := store.Open(t.Context(), store.Config{Root: root, Backend: name, New: func(ctx context.Context, env backend.Env) (backend.Backend, error) {
		return tested(t)[0].Open(ctx, env, nil)
	}})
	assert.NilError(t, err)
	assert.NilError(t, st.Close(t.Context()))
	return root
}

func TestChangingOptions(t *testing.T) {
	root := filepath.Join(t.TempDir(), "strata")
	kin, foreign := other(t, "vfs"), other(t, "thick")
	p := start(t, root, nil, []string{"log-level=error"})
	assert.NilError(t, p.init())
	for _, tc := range []struct {
		name   string
		values map[string]string
		want   []config.Outcome
		err    string
	}{
		{"live", map[string]string{"sync": "none"}, []config.Outcome{{Key: "sync", Value: "none", Live: true}}, ""},
		{"with the prefix", map[string]string{"strata.log-level": "fatal"}, nil, "allowed are"},
		{"at the next start", map[string]string{"vfs.color": "red"}, []config.Outcome{{Key: "vfs.color", Value: "red", Restart: config.RestartService}}, ""},
		{"no store", map[string]string{"stores": "/nowhere"}, nil, "additional store /nowhere: there is no store"},
		{"another backend's store", map[string]string{"strata.stores": foreign}, nil, "backend thick, want format 1 and backend vfs"},
		{"a store", map[string]string{"stores": kin}, []config.Outcome{{Key: "stores", Value: kin, Restart: config.RestartService}}, ""},
		{"no store any more", map[string]string{"stores": ""}, []config.Outcome{{Key: "stores", Unset: "default", Restart: config.RestartService}}, ""},
		{"unknown", map[string]string{"vfs.colour": "red"}, nil, "the known ones are"},
		{"fixed", map[string]string{"exact-diffs": "false"}, nil, "decided when the store is made"},
		{"place", map[string]string{"root": "/x"}, nil, "docker plugin set"},
		{"all or nothing", map[string]string{"sync": "layer", "vfs.nope": "1"}, nil, "vfs.nope"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := p.client.SetOptions(t.Context(), tc.values)
			if tc.err != "" {
				assert.ErrorContains(t, err, tc.err)
				assert.Equal(t, errdefs.IsInvalidArgument(err), !strings.Contains(tc.name, "store"), "%v", err)
				return
			}
			assert.NilError(t, err)
			assert.DeepEqual(t, got, tc.want)
		})
	}
	i, err := p.client.Info(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, i.Sync, store.SyncNone)
	assert.Equal(t, p.value("sync"), "none from config file")
	assert.Equal(t, p.value("vfs.color"), " from default, then red from config file")
	assert.NilError(t, p.stop())

	p = start(t, root, nil, []string{"log-level=error"})
	assert.NilError(t, p.init())
	assert.Equal(t, p.value("sync"), "none from config file")
	assert.Equal(t, p.value("vfs.color"), "red from config file")

	got, err := p.client.SetOptions(t.Context(), map[string]string{"sync": "", "vfs.color": "", "log-level": ""})
	assert.NilError(t, err)
	assert.DeepEqual(t, got, []config.Outcome{
		{Key: "log-level", Value: "error", Unset: "flags", Live: true},
		{Key: "sync", Value: "layer", Unset: "default", Live: true},
		{Key: "vfs.color", Unset: "default", Restart: config.RestartService},
	})
	i, err = p.client.Info(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, i.Sync, store.SyncLayer)
	assert.Equal(t, p.value("sync"), "layer from default")
	assert.Equal(t, p.value("vfs.color"), "red from config file, then  from default")

	// A store that is in use is not at rest.
	_, err = rest(t, root, nil, config.Source{}).SetOptions(map[string]string{"vfs.color": "red"})
	assert.Assert(t, errdefs.IsUnavailable(err), "%v", err)
	assert.ErrorContains(t, err, "another process")
	assert.Equal(t, p.value("vfs.color"), "red from config file, then  from default")
}

// TestUnsetWhatNobodyKnows: a key of another version keeps the store from opening until it is unset.
func TestUnsetWhatNobodyKnows(t *testing.T) {
	root := filepath.Join(t.TempDir(), "strata")
	p := start(t, root, nil, []string{"log-level=error"})
	assert.NilError(t, p.init())
	assert.NilError(t, p.stop())
	file := filepath.Join(root, config.FileName)
	assert.NilError(t, os.WriteFile(file, []byte(`{"strata.vfs.smell": "x", "sync": "none"}`), 0o600))
	_, err := rest(t, root, nil, config.Source{}).SetOptions(map[string]string{"vfs.color": "red"})
	assert.ErrorContains(t, err, "vfs.smell")
	got, err := rest(t, root, nil, config.Source{}).SetOptions(map[string]string{"vfs.smell": ""})
	assert.NilError(t, err)
	assert.DeepEqual(t, got, []config.Outcome{{Key: "vfs.smell", Unset: "default"}})
	_, err = rest(t, root, nil, config.Source{}).SetOptions(map[string]string{"stores": "/nowhere"})
	assert.ErrorContains(t, err, "there is no store")
	p = start(t, root, nil, []string{"log-level=error"})
	assert.NilError(t, p.init())
	assert.Equal(t, p.value("sync"), "none from config file")
	_, err = p.client.SetOptions(t.Context(), map[string]string{"vfs.smell": ""})
	assert.Assert(t, errdefs.IsInvalidArgument(err), "%v", err)
}

// TestStorageOptsWin: a live change is made although --storage-opt will win at the next start, and says so.
func TestStorageOptsWin(t *testing.T) {
	root := filepath.Join(t.TempDir(), "strata")
	p := start(t, root, nil, []string{"log-level=error"})
	assert.NilError(t, p.init("sync=layer", "vfs.color=blue"))
	got, err := p.client.SetOptions(t.Context(), map[string]string{"sync": "none", "vfs.color": "red"})
	assert.NilError(t, err)
	assert.Assert(t, got[0].Live)
	assert.Equal(t, got[0].Winner, "--storage-opt has sync=layer")
	assert.Equal(t, got[1].Winner, "--storage-opt has vfs.color=blue")
	i, err := p.client.Info(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, i.Sync, store.SyncNone)
	assert.Equal(t, p.value("sync"), "none from this process, then layer from --storage-opt")
	assert.Equal(t, p.value("vfs.color"), "blue from --storage-opt")
	assert.NilError(t, p.stop())
	p = start(t, root, nil, []string{"log-level=error"})
	assert.NilError(t, p.init("sync=layer"))
	assert.Equal(t, p.value("sync"), "layer from --storage-opt")
	assert.Equal(t, p.value("vfs.color"), "red from config file")
}

func TestAnotherInit(t *testing.T) {
	root := filepath.Join(t.TempDir(), "strata")
	p := start(t, root, nil, []string{"log-level=error"})
	assert.NilError(t, p.init("vfs.color=blue"))
	assert.NilError(t, p.init("vfs.color=blue"))
	assert.NilError(t, p.init("vfs.color=blue", "sync=none"))
	assert.Equal(t, p.value("sync"), "none from --storage-opt")
	assert.ErrorContains(t, p.init("vfs.colour=red"), "known ones")
	assert.ErrorContains(t, p.init("vfs.color=blue", "exact-diffs=false"), "exact-diffs for ever")

	// dockerd starts with what takes a restart of the plugin, and is told.
	assert.NilError(t, p.init("vfs.color=red"))
	assert.Equal(t, p.value("vfs.color"), "blue from --storage-opt, then red from --storage-opt")
	assert.Equal(t, p.value("sync"), "layer from default")
	i, err := p.client.Describe(t.Context())
	assert.NilError(t, err)
	assert.Assert(t, strings.Contains(strings.Join(i.Warnings, ""), "--storage-opt changed vfs.color"), "%v", i.Warnings)
	assert.NilError(t, p.init("vfs.color=blue"))
	i, err = p.client.Describe(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, len(i.Warnings), 0)
}

func TestInitThatIsWrong(t *testing.T) {
	root := filepath.Join(t.TempDir(), "strata")
	p := start(t, root, nil, []string{"log-level=error"})
	assert.ErrorContains(t, p.init("nope=1"), "known ones are backend, root, sync")
	assert.NilError(t, p.init())
}

func TestServeThatCannotStart(t *testing.T) {
	root := filepath.Join(t.TempDir(), "strata")
	dir := t.TempDir()
	for _, tc := range []struct {
		name    string
		socket  string
		environ []string
		want    string
	}{
		{"unknown variable", "s", []string{"STRATA_X=1"}, "STRATA_X is unknown"},
		{"bad value", "s", []string{"STRATA_SYNC=x"}, "allowed are"},
		{"socket that is a directory", ".", nil, "not a socket"},
		{"long socket", strings.Repeat("s", 200), nil, "can have"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			flags, err := config.FromFlags([]string{"root=" + root})
			assert.NilError(t, err)
			err = Run(t.Context(), Config{Socket: filepath.Join(dir, tc.socket), Backends: tested(t), Environ: tc.environ, Flags: flags, Log: io.Discard, Errors: io.Discard})
			assert.ErrorContains(t, err, tc.want)
			_, err = os.Stat(root)
			assert.ErrorIs(t, err, os.ErrNotExist)
		})
	}
}

// TestRefusal: a managed plugin that cannot work listens, and answers with the reason.
func TestRefusal(t *testing.T) {
	managed := []string{"STRATA_PROPAGATED_MOUNT=/nowhere", "STRATA_DATA=/nowhere", "STRATA_RUN=/run"}
	socket := filepath.Join("/run", filepath.Base(t.TempDir())+fmt.Sprintf("-strata-%d.sock", os.Getpid()))
	for _, tc := range []struct {
		name    string
		environ []string
		want    string
	}{
		{"unknown variable", []string{"STRATA_X=1"}, "STRATA_X is unknown"},
		{"bad value", []string{"STRATA_SYNC=x"}, "allowed are layer, none"},
		{"no data directory", nil, "no host directory is mounted on /nowhere"},
		{"bad backend", []string{"STRATA_BACKEND=zip", "STRATA_SNAPSHOTTER_SOCKET=" + socket}, "allowed are"},
		{"bad snapshotter", []string{"STRATA_SYNC=x", "STRATA_SNAPSHOTTER_SOCKET=/srv/s.sock"}, "allowed are layer, none"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			needRoot(t) // in /run
			root := filepath.Join(t.TempDir(), "strata")
			p := start(t, root, append(tc.environ, managed...), nil)
			_, err := p.docker("Plugin.Activate", nil)
			assert.NilError(t, err)
			assert.ErrorContains(t, p.init(), tc.want)
			_, err = p.docker("GraphDriver.Get", map[string]any{"ID": aaa})
			assert.ErrorContains(t, err, tc.want)
			got, err := p.docker("GraphDriver.Status", map[string]any{})
			assert.NilError(t, err)
			assert.Assert(t, strings.Contains(fmt.Sprint(got["Status"]), tc.want), "%v", got)
			_, err = p.client.Info(t.Context())
			assert.ErrorContains(t, err, tc.want)
			_, err = p.client.Options(t.Context())
			assert.ErrorContains(t, err, tc.want)
			_, err = p.client.SetOptions(t.Context(), map[string]string{"sync": "none"})
			assert.ErrorContains(t, err, tc.want)
			if strings.Contains(fmt.Sprint(tc.environ), socket) {
				conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
				assert.NilError(t, err)
				_, err = proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "strata").Stat(t.Context(), aaa)
				assert.ErrorContains(t, err, tc.want)
				assert.NilError(t, conn.Close())
			}
			assert.NilError(t, p.stop())
			_, err = os.Stat(root)
			assert.ErrorIs(t, err, os.ErrNotExist)
		})
	}
}

// TestStoreThatCannotBeOpened: why not is not forgotten after Init.
func TestStoreThatCannotBeOpened(t *testing.T) {
	root := filepath.Join(t.TempDir(), "strata")
	assert.NilError(t, os.WriteFile(root, nil, 0o600))
	p := start(t, root, nil, []string{"log-level=error"})
	assert.ErrorContains(t, p.init(), "not a directory")
	_, err := p.client.Info(t.Context())
	assert.ErrorContains(t, err, "not a directory")
	got, err := p.docker("GraphDriver.Status", map[string]any{})
	assert.NilError(t, err)
	assert.Assert(t, strings.Contains(fmt.Sprint(got["Status"]), "not a directory"), "%v", got)
	assert.NilError(t, os.Remove(root))
	assert.NilError(t, p.init())
}

// TestContainerdFirst: the store opens for containerd as for an Init without arguments, and dockerd's own comes later.
func TestContainerdFirst(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	root, socket := filepath.Join(dir, "strata"), filepath.Join(dir, "snapshotter.sock")
	for range 2 {
		p := start(t, root, nil, []string{"log-level=error", "snapshotter-socket=" + socket})
		_, err := os.Stat(root)
		assert.NilError(t, err, "what measures the file system of the store finds it before the first request")
		conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
		assert.NilError(t, err)
		sn := proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "strata")
		if _, err := sn.Stat(t.Context(), aaa); errdefs.IsNotFound(err) {
			_, err := sn.Prepare(t.Context(), aaa, "")
			assert.NilError(t, err)
		}
		_, err = sn.Prepare(t.Context(), aaa, "")
		assert.Assert(t, errdefs.IsAlreadyExists(err), "%v", err)
		assert.NilError(t, p.init("sync=none"))
		_, err = p.docker("GraphDriver.Create", map[string]any{"ID": aaa})
		assert.NilError(t, err)
		_, err = p.docker("GraphDriver.Remove", map[string]any{"ID": aaa})
		assert.NilError(t, err)
		list, err := p.client.List(t.Context())
		assert.NilError(t, err)
		assert.Equal(t, len(list), 1)
		assert.Equal(t, list[0].Name, snapshotter.Prefix+aaa)
		assert.NilError(t, conn.Close())
		assert.NilError(t, p.stop())
	}
}

func TestSocketsOfAPlugin(t *testing.T) {
	p := Placement{data: "/data", runDir: "/hostrun"}
	got, err := p.socket("/run/strata/s.sock")
	assert.NilError(t, err)
	assert.Equal(t, got, "/hostrun/strata/s.sock")
	_, err = p.socket("/srv/s.sock")
	assert.Assert(t, errdefs.IsInvalidArgument(err), "%v", err)
	got, err = Placement{}.socket("/srv/s.sock")
	assert.NilError(t, err)
	assert.Equal(t, got, "/srv/s.sock")
}
