package graphdriver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"strata/backend"
	"strata/backend/store"
	"strata/plugin"
	"strata/plugin/keeper"
)

// What Docker requires of a graphdriver plugin, and the tests that hold it, by the R in their names.
// They are in this package, over Docker's own client: in this file with a fake store, in
// store_linux_test.go with a real one. The suite of package backendtest holds R09 to R15 and R18 to
// R22 for each backend; the last column says where else a requirement is held.
//
//	R01 listen first, Init attaches           TestR01ListenFirst InitIsIdempotent InitIsReentrant InitOutlivesItsClient InitReconfigures
//	R02 Init is persisted                     TestR02RestartWithoutInit BrokenInitFile NothingBeforeInit keeper: InitFileRoundTrip InitFileIsReplacedWhole
//	R03 IDs by grammar                        TestR03OddIDsTouchNothing RetriesWithoutBodyAreRefused ClientRetriesAreRefused, FuzzWire
//	R04 errors on the wire                    TestR04ErrorsReachTheUser DiffIsCutNotEnded ApplyErrorBeatsTheStream ExistsIsFalseForTheMissing
//	R05 no timeouts, no lock across a stream  TestR05CommitPipesDiffIntoApply CommitOverTheStore; plugin: TestR05NoTimeouts
//	R06 lenient requests                      TestR06LenientRequests
//	R07 exact diffs as recorded               TestR07CapabilitiesAreTheStores; store: it refuses to change the promise
//	R08 end within ten seconds                TestR08CloseLeavesMounts; plugin: TestR08DrainWaitsForRequests DrainStopsWhatDoesNotEnd
//	R09 second ApplyDiff refused              TestR09RestOfTheStreamIsRefused EmptyStreamIsRefused FillOnlyWhatWeCreated ApplyingDoesNotSurviveARestart
//	R10 Create is exclusive and durable       TestR10CreateIsExclusive; store: its crash tests
//	R11 empty layers are ready                TestR11EmptyLayersAreParents
//	R12 Get is writable, one path             TestR12GetIsWritableAndStable
//	R13 Put and Remove forgive                TestR13PutAndRemoveForgive
//	R14 orphans are not guessed               TestR14NothingIsGuessedToBeGarbage; store: GC
//	R15 labels and ID maps                    TestR15LabelsAndMapsReachTheStore OwnersAreMappedBothWays
//	R16 layers in a host directory            TestR16ClimbingPath GetAnswersTheHostPath; main: the probe of propagation
//	R17 home as typed, odd characters         TestR17HomeAsTypedIsTheSameStore; overlay: odd store paths
//	R18 mounts are counted once               TestR12GetIsWritableAndStable; internal/mount
//	R19 diffs are native and reproducible     TestR19DiffIsReproducible
//	R20 whiteouts                             TestR20WhiteoutsAreDockers
//	R21 sizes                                 TestR21SizesAreFileSizes
//	R22 an unreadable file fails the Diff     TestR04DiffIsCutNotEnded; internal/layertar

func TestR01ListenFirst(t *testing.T) {
	opening, release := make(chan struct{}), make(chan struct{})
	f := &fake{}
	k := keeper.Over(keeping(t, t.TempDir(), nil, nameless()...), func(context.Context, store.Config) (*fake, error) {
		close(opening)
		<-release // a long recovery
		return f, nil
	})
	begin := time.Now()
	p := serve(t, k, Options{})
	var a answer
	assert.NilError(t, p.docker.Call("Plugin.Activate", nil, &a))
	assert.DeepEqual(t, a.Implements, []string{"GraphDriver"})
	assert.Assert(t, time.Since(begin) < 100*time.Millisecond, "answered after %v", time.Since(begin))

	inited := make(chan error, 1)
	go func() {
		_, err := p.call("Init", keeper.Init{Home: "/prop/strata"})
		inited <- err
	}()
	<-opening
	begin = time.Now()
	assert.NilError(t, p.docker.Call("Plugin.Activate", nil, &a))
	assert.Assert(t, time.Since(begin) < 100*time.Millisecond, "answered after %v during recovery", time.Since(begin))
	close(release)
	assert.NilError(t, <-inited)
}

func TestR01InitIsIdempotent(t *testing.T) {
	r := newRig(t, Options{})
	r.init()
	r.ok("Get", arguments{ID: id("a")})
	written, err := os.Stat(filepath.Join(r.root, keeper.InitFile))
	assert.NilError(t, err)
	r.fake.take()
	for range 3 {
		r.init()
	}
	assert.Equal(t, len(r.opened), 1)
	assert.Equal(t, len(r.fake.take()), 0, "Init must not touch an open store")
	assert.Equal(t, r.fake.mounts, 1)
	again, err := os.Stat(filepath.Join(r.root, keeper.InitFile))
	assert.NilError(t, err)
	assert.Assert(t, os.SameFile(written, again), "the same arguments are not written again")
}

func TestR01InitIsReentrant(t *testing.T) {
	r := newRig(t, Options{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			_, err := r.call("Init", keeper.Init{Home: "/prop/strata"})
			assert.Check(t, err)
			_, err = r.call("Get", arguments{ID: id("a")})
			assert.Check(t, err)
		})
	}
	wg.Wait()
	assert.Equal(t, len(r.opened), 1)
}

// TestR01InitOutlivesItsClient: an impatient client must not leave half a recovery.
func TestR01InitOutlivesItsClient(t *testing.T) {
	opening := make(chan struct{})
	r := newRig(t, Options{})
	opened := make(chan error, 1)
	r.open = func(ctx context.Context) (Store, error) {
		close(opening)
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
		opened <- ctx.Err()
		return r.fake, ctx.Err()
	}
	ctx, hangUp := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://plugin/GraphDriver.Init", strings.NewReader(`{"Home":"/prop/strata"}`))
	assert.NilError(t, err)
	go func() {
		<-opening
		hangUp()
	}()
	_, err = r.http.Do(req)
	assert.ErrorIs(t, err, context.Canceled)
	assert.NilError(t, <-opened)
	r.ok("Get", arguments{ID: id("a")})
}

func TestR01InitReconfigures(t *testing.T) {
	first := keeper.Init{Home: "/prop/strata", Opts: []string{"sync=layer"}}
	next := keeper.Init{Home: "/prop/strata", Opts: []string{"sync=none"}}
	t.Run("refused", func(t *testing.T) {
		r := newRig(t, Options{})
		r.ok("Init", first)
		_, err := r.call("Init", keeper.Init{Home: "/prop/strata", Opts: []string{"exact-diffs=false"}})
		assert.ErrorContains(t, err, `change options from ["sync=layer"] to ["exact-diffs=false"]: the store has exact-diffs for ever`)
		assert.DeepEqual(t, saved(t, r.root), first)
		r.ok("Get", arguments{ID: id("a")})
	})
	t.Run("possible", func(t *testing.T) {
		r := newRig(t, Options{})
		r.ok("Init", first)
		r.fake.take()
		r.ok("Init", next)
		assert.DeepEqual(t, r.fake.take(), []string{"sync none"})
		assert.DeepEqual(t, saved(t, r.root), next)
		assert.DeepEqual(t, r.k.Current().Init, next)
		assert.Equal(t, len(r.opened), 1)
	})
	t.Run("after a failed open", func(t *testing.T) {
		r := newRig(t, Options{})
		r.open = func(context.Context) (Store, error) { return nil, errors.New("no such backend") }
		_, err := r.call("Init", next)
		assert.ErrorContains(t, err, "no such backend")
		_, err = os.Stat(filepath.Join(r.root, keeper.InitFile))
		assert.ErrorIs(t, err, os.ErrNotExist, "what could not be opened is not kept")
		r.open = func(context.Context) (Store, error) { return r.fake, nil }
		r.ok("Init", first)
	})
}

func TestR02RestartWithoutInit(t *testing.T) {
	root := t.TempDir()
	want := keeper.Init{
		Home: "/prop/strata:latest", Opts: []string{"backend=vfs", "sync=none"},
		UIDMaps: []backend.IDRange{{Host: 100000, Size: 65536}}, GIDMaps: []backend.IDRange{{Host: 200000, Size: 65536}},
	}
	first := newRigIn(t, root, Options{})
	first.ok("Init", want)
	first.stop()
	assert.Assert(t, first.fake.closed)
	for _, call := range []struct {
		method string
		args   arguments
	}{
		{"Get", arguments{ID: id("a")}},
		{"Put", arguments{ID: id("a")}},
		{"Create", arguments{ID: id("a")}},
		{"Remove", arguments{ID: id("a")}},
		{"Status", arguments{}},
		{"Capabilities", arguments{}},
		{"DiffSize", arguments{ID: id("a")}},
		{"Changes", arguments{ID: id("a")}},
	} {
		t.Run(call.method, func(t *testing.T) {
			again := newRigIn(t, root, Options{})
			again.ok(call.method, call.args)
			openedWith(t, again, want)
		})
	}
	t.Run("Diff", func(t *testing.T) {
		again := newRigIn(t, root, Options{})
		_, err := again.diff("a", "")
		assert.NilError(t, err)
		openedWith(t, again, want)
	})
	t.Run("Resume", func(t *testing.T) {
		again := newRigIn(t, root, Options{})
		assert.NilError(t, second(again.k.Session(t.Context())))
		assert.NilError(t, second(again.k.Session(t.Context())))
		openedWith(t, again, want)
	})
}

func TestR02BrokenInitFile(t *testing.T) {
	for _, tc := range []struct{ name, content, want string }{
		{"torn", `{"format":1,"ini`, "unexpected end of JSON input"},
		{"empty", ``, "unexpected end of JSON input"},
		{"newer", `{"format":2,"init":{"Home":"/x"}}`, "format 2, this version of strata knows 1"},
		{"no home", `{"format":1,"init":{}}`, "not an absolute path"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := t.TempDir()
			file := filepath.Join(root, keeper.InitFile)
			assert.NilError(t, os.WriteFile(file, []byte(tc.content), 0o600))
			r := newRigIn(t, root, Options{})
			_, err := r.call("Get", arguments{ID: id("a")})
			assert.ErrorContains(t, err, tc.want)
			assert.ErrorContains(t, err, file)
			assert.Equal(t, len(r.opened), 0)
			r.init() // mends it
			assert.Equal(t, len(r.opened), 1)
			assert.Equal(t, saved(t, root).Home, "/prop/strata")
		})
	}
}

func TestR02NothingBeforeInit(t *testing.T) {
	r := newRig(t, Options{Warnings: func(context.Context) []string { return []string{"mind the gap"} }})
	for _, method := range []string{
		"Create", "CreateReadWrite", "Remove", "Get", "Put", "Exists", "GetMetadata", "Diff", "Changes", "DiffSize",
	} {
		_, err := r.call(method, arguments{ID: id("a")})
		assert.ErrorContains(t, err, "not initialised", method)
	}
	_, err := r.apply("a", "", strings.NewReader("tar"))
	assert.ErrorContains(t, err, "not initialised")
	assert.Assert(t, errdefs.IsFailedPrecondition(second(r.k.Session(t.Context()))))
	assert.Assert(t, !r.ok("Capabilities", arguments{}).Capabilities.ReproducesExactDiffs)
	assert.DeepEqual(t, r.ok("Status", arguments{}).Status, [][2]string{{"Backend", "not initialised"}, {"WARNING", "mind the gap"}})
	r.ok("Cleanup", arguments{})
	assert.Equal(t, len(r.opened), 0)
}

func TestR03OddIDsTouchNothing(t *testing.T) {
	r := newRig(t, Options{})
	r.init()
	r.fake.take()
	for _, odd := range oddIDs {
		for _, method := range []string{
			"Create", "CreateReadWrite", "Remove", "Get", "Put", "Exists", "GetMetadata", "Diff", "Changes", "DiffSize",
		} {
			_, err := r.call(method, arguments{ID: odd})
			assert.ErrorContains(t, err, "layer id", "%s of %q", method, odd)
			if odd == "" || method == "Remove" || method == "Get" || method == "Put" || method == "Exists" || method == "GetMetadata" {
				continue
			}
			_, err = r.call(method, arguments{ID: id("a"), Parent: odd})
			assert.ErrorContains(t, err, "parent: layer id", "%s of parent %q", method, odd)
		}
		status, text := r.post("/GraphDriver.ApplyDiff?parent=&id="+escape(odd), strings.NewReader("tar"))
		assert.Equal(t, status, http.StatusBadRequest)
		assert.Assert(t, is.Contains(text, "layer id"))
	}
	status, text := r.post("/GraphDriver.ApplyDiff?id="+id("a")+"&id="+id("b"), strings.NewReader("tar"))
	assert.Equal(t, status, http.StatusBadRequest)
	assert.Assert(t, is.Contains(text, "2 values for id"))
	assert.Equal(t, len(r.fake.take()), 0, "no odd id may reach the store")
}

// TestR03RetriesWithoutBodyAreRefused: a JSON call that is repeated has no body any more.
func TestR03RetriesWithoutBodyAreRefused(t *testing.T) {
	r := newRig(t, Options{})
	r.init()
	r.fake.take()
	for _, method := range []string{
		"Init", "Create", "CreateReadWrite", "Remove", "Get", "Put", "Exists", "GetMetadata", "Diff", "Changes", "DiffSize",
	} {
		for _, body := range []string{"", "\n"} {
			status, text := r.post("/GraphDriver."+method, strings.NewReader(body))
			assert.Equal(t, status, http.StatusBadRequest, method)
			assert.Assert(t, is.Contains(text, "empty"), method)
		}
		status, _ := r.post("/GraphDriver."+method, strings.NewReader("{}"))
		assert.Equal(t, status, http.StatusBadRequest, method)
	}
	assert.Equal(t, len(r.fake.take()), 0)
	for _, method := range []string{"Status", "Capabilities", "Cleanup"} {
		status, _ := r.post("/GraphDriver."+method, strings.NewReader(""))
		assert.Equal(t, status, http.StatusOK, "%s has no arguments to lose", method)
	}
}

// TestR03ClientRetriesAreRefused lets Docker's own client do its worst: the first attempt's
// connection breaks, and what it sends next must not be taken for anything.
func TestR03ClientRetriesAreRefused(t *testing.T) {
	r := newRig(t, Options{})
	r.init()
	r.fake.onAny = func(op string) error {
		if strings.HasPrefix(op, "mount") {
			panic(http.ErrAbortHandler)
		}
		return nil
	}
	_, err := r.call("Get", arguments{ID: id("a")})
	assert.ErrorContains(t, err, "GraphDriver.Get: request body is empty")
}

func TestR04ErrorsReachTheUser(t *testing.T) {
	r := newRig(t, Options{})
	r.init()
	r.create("x", "")
	r.fake.onAny = func(string) error { return errors.New("the disk is on fire") }
	for _, method := range []string{"Create", "CreateReadWrite", "Remove", "Get", "Put", "Exists", "GetMetadata", "Diff", "Changes", "DiffSize"} {
		_, err := r.call(method, arguments{ID: id("a")})
		assert.Error(t, err, "GraphDriver."+method+": the disk is on fire")
		status, text := r.post("/GraphDriver."+method, strings.NewReader(`{"ID":"`+id("a")+`"}`))
		assert.Equal(t, status, http.StatusInternalServerError)
		assert.Equal(t, text, "the disk is on fire")
	}
	_, err := r.apply("x", "", strings.NewReader("tar"))
	assert.Error(t, err, "GraphDriver.ApplyDiff?id="+id("x")+"&parent=: the disk is on fire")
	rows := r.ok("Status", arguments{}).Status // docker info shows nothing of an error
	assert.Equal(t, rows[len(rows)-1][1], "the disk is on fire")
	r.fake.onAny = nil

	for path, want := range map[string]int{"/GraphDriver.Nonsense": http.StatusNotFound, "/": http.StatusNotFound} {
		status, text := r.post(path, nil)
		assert.Equal(t, status, want)
		assert.Assert(t, is.Contains(text, path))
	}
	resp, err := r.http.Get("http://plugin/GraphDriver.Get")
	assert.NilError(t, err)
	assert.NilError(t, resp.Body.Close())
	assert.Equal(t, resp.StatusCode, http.StatusMethodNotAllowed)
}

func TestR04ExistsIsFalseForTheMissing(t *testing.T) {
	r := newRig(t, Options{})
	r.init()
	assert.Assert(t, r.ok("Exists", arguments{ID: id("a")}).Exists)
	r.fake.onAny = func(string) error { return fmt.Errorf("layer: %w", errdefs.ErrNotFound) }
	assert.Assert(t, !r.ok("Exists", arguments{ID: id("a")}).Exists)
}

// TestR04DiffIsCutNotEnded: a tar that ends early must not look complete.
func TestR04DiffIsCutNotEnded(t *testing.T) {
	for _, tc := range []struct {
		name string
		sent int  // before the failure
		text bool // the reason can still be told
	}{
		{"at once", 0, true},
		{"within the buffer", streamBuffer - 1, true},
		{"after the first byte", streamBuffer + 1, false},
		{"late", 5 << 20, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, Options{})
			r.init()
			r.fake.onDiff = func(_ context.Context, w io.Writer) error {
				_, err := io.Copy(w, &pattern{size: tc.sent})
				return errors.Join(err, errors.New("unreadable file"))
			}
			b, err := r.diff("a", "")
			if tc.text {
				assert.Error(t, err, "GraphDriver.Diff: unreadable file")
				return
			}
			assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
			assert.Assert(t, len(b) <= tc.sent)
		})
	}
}

// TestR04ApplyErrorBeatsTheStream: the reason arrives although the client is still sending.
func TestR04ApplyErrorBeatsTheStream(t *testing.T) {
	r := newRig(t, Options{})
	r.init()
	for _, sent := range []int64{0, 1 << 10, 1 << 20} {
		r.create("a", "")
		r.fake.onApply = func(_ context.Context, body io.Reader) (int64, error) {
			_, err := io.CopyN(io.Discard, body, sent)
			return 0, errors.Join(err, errors.New("no space left on device"))
		}
		_, err := r.apply("a", "", &pattern{size: 64 << 20})
		assert.ErrorContains(t, err, "no space left on device")
	}
}

// TestR05CommitPipesDiffIntoApply: docker commit sends the tar that it receives from one call to
// another one. Neither may wait for the other's end.
func TestR05CommitPipesDiffIntoApply(t *testing.T) {
	const size = 32 << 20
	r := newRig(t, Options{})
	r.init()
	r.create("new", "")
	half := make(chan struct{})
	r.fake.onDiff = func(_ context.Context, w io.Writer) error {
		p := &pattern{size: size}
		if _, err := io.CopyN(w, p, size/2); err != nil {
			return err
		}
		select {
		case <-half: // the other end got something before we were through
		case <-time.After(10 * time.Second):
			return errors.New("nothing has arrived at ApplyDiff")
		}
		_, err := io.CopyN(w, p, size/2)
		return err
	}
	r.fake.onApply = func(_ context.Context, body io.Reader) (int64, error) {
		first, err := io.CopyN(io.Discard, body, size/4)
		if err != nil {
			return first, err
		}
		close(half)
		rest, err := io.Copy(io.Discard, body)
		return first + rest, err
	}
	tar, err := r.docker.Stream("GraphDriver.Diff", arguments{ID: id("old")})
	assert.NilError(t, err)
	defer tar.Close()
	n, err := r.apply("new", "", tar)
	assert.NilError(t, err)
	assert.Equal(t, n, int64(size))
}

// TestR06LenientRequests sends what dockerd 20.10 sends: no content type and an empty host.
func TestR06LenientRequests(t *testing.T) {
	r := newRig(t, Options{})
	r.init()
	for _, request := range []string{
		"POST /GraphDriver.Get HTTP/1.1\r\nHost: \r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: %d\r\n" +
			"Accept: application/vnd.docker.plugins.v1.2+json\r\n\r\n%s",
		"POST /GraphDriver.Get?surprise=1 HTTP/1.1\r\nHost: plugin.moby.localhost\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s",
	} {
		body := `{"ID":"` + id("a") + `","Future":{"Field":[1]},"MountLabel":""}` + "\n"
		d := net.Dialer{}
		conn, err := d.DialContext(t.Context(), "unix", r.path)
		assert.NilError(t, err)
		_, err = fmt.Fprintf(conn, request, len(body), body)
		assert.NilError(t, err)
		b := make([]byte, 4096)
		n, err := conn.Read(b)
		assert.NilError(t, err)
		assert.NilError(t, conn.Close())
		assert.Assert(t, strings.HasPrefix(string(b[:n]), "HTTP/1.1 200 OK\r\n"), "%s", b[:n])
		assert.Assert(t, is.Contains(string(b[:n]), `{"Dir":"/store/mnt/`))
		assert.Assert(t, is.Contains(string(b[:n]), "Content-Type: application/vnd.docker.plugins.v1.1+json"))
	}
	status, _ := r.post("/GraphDriver.Create", strings.NewReader(`{"ID":"`+id("b")+`"}`))
	assert.Equal(t, status, http.StatusOK)
	status, _ = r.post("/GraphDriver.ApplyDiff?future=1&id="+id("b"), strings.NewReader("tar"))
	assert.Equal(t, status, http.StatusOK)
}

func TestR07CapabilitiesAreTheStores(t *testing.T) {
	for _, exact := range []bool{false, true} {
		r := newRig(t, Options{})
		r.fake.info.ExactDiffs = exact
		r.init()
		assert.Equal(t, r.ok("Capabilities", arguments{}).Capabilities.ReproducesExactDiffs, exact)
	}
}

func TestR08CloseLeavesMounts(t *testing.T) {
	r := newRig(t, Options{})
	r.init()
	r.ok("Get", arguments{ID: id("a")})
	r.ok("Cleanup", arguments{})
	assert.Assert(t, !r.fake.closed, "the next daemon may find this process alive")
	assert.Equal(t, r.fake.mounts, 0, "no container runs when Docker calls Cleanup")
	r.ok("Get", arguments{ID: id("b")})
	r.stop()
	assert.Assert(t, r.fake.closed)
	assert.Equal(t, r.fake.mounts, 1)
	assert.Assert(t, errdefs.IsUnavailable(second(r.k.Session(t.Context()))), "nobody opens the store again")
}

// TestR09EmptyStream: an image may have a layer of no bytes (docker import /dev/null). Of a retry of a call that was cut off the
// store knows that the layer was begun.
func TestR09EmptyStream(t *testing.T) {
	r := newRig(t, Options{})
	r.init()
	r.create("a", "")
	_, err := r.apply("a", "", bytes.NewReader(nil))
	assert.NilError(t, err)
}

// TestHangUpStopsTheWork: a client that goes away ends what is being done for it.
func TestHangUpStopsTheWork(t *testing.T) {
	r := newRig(t, Options{})
	r.init()
	r.create("a", "")
	ended := make(chan error, 1)
	wait := func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			ended <- ctx.Err()
		case <-time.After(10 * time.Second):
			ended <- errors.New("still at work")
		}
		return ctx.Err()
	}
	send := func(t *testing.T, path, body string) {
		ctx, hangUp := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://plugin"+path, strings.NewReader(body))
		assert.NilError(t, err)
		time.AfterFunc(50*time.Millisecond, hangUp)
		_, err = r.http.Do(req)
		assert.ErrorIs(t, err, context.Canceled)
		assert.ErrorIs(t, <-ended, context.Canceled)
	}
	t.Run("Diff", func(t *testing.T) {
		r.fake.onDiff = func(ctx context.Context, _ io.Writer) error { return wait(ctx) }
		send(t, "/GraphDriver.Diff", `{"ID":"`+id("a")+`"}`+"\n")
	})
	t.Run("ApplyDiff after its stream", func(t *testing.T) {
		r.fake.onApply = func(ctx context.Context, body io.Reader) (int64, error) {
			if _, err := io.Copy(io.Discard, body); err != nil {
				return 0, err
			}
			return 0, wait(ctx)
		}
		send(t, "/GraphDriver.ApplyDiff?parent=&id="+id("a"), "tar")
	})
	t.Run("ApplyDiff within its stream", func(t *testing.T) {
		r.create("b", "")
		r.fake.onApply = func(_ context.Context, body io.Reader) (int64, error) {
			_, err := io.Copy(io.Discard, body)
			ended <- err
			return 0, err
		}
		d := net.Dialer{}
		conn, err := d.DialContext(t.Context(), "unix", r.path)
		assert.NilError(t, err)
		_, err = fmt.Fprintf(conn, "POST /GraphDriver.ApplyDiff?parent=&id=%s HTTP/1.1\r\nHost: \r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntar\r\n", id("b"))
		assert.NilError(t, err)
		assert.NilError(t, conn.Close())
		assert.ErrorIs(t, <-ended, io.ErrUnexpectedEOF)
	})
}

func TestPanicOfTheStoreFailsOneCall(t *testing.T) {
	r := newRig(t, Options{})
	r.init()
	r.fake.onDiff = func(context.Context, io.Writer) error { panic("bug") }
	_, err := r.diff("a", "")
	assert.ErrorContains(t, err, "GraphDriver.Diff: internal error: bug")
	r.ok("Get", arguments{ID: id("a")})
}

func TestR15LabelsAndMapsReachTheStore(t *testing.T) {
	r := newRig(t, Options{})
	r.ok("Init", keeper.Init{Home: "/prop/strata", UIDMaps: []backend.IDRange{{Host: 7, Size: 9}}, GIDMaps: []backend.IDRange{{Host: 8, Size: 9}}})
	r.ok("CreateReadWrite", arguments{ID: id("a"), MountLabel: "label:a", StorageOpt: map[string]string{"size": "10G"}})
	assert.DeepEqual(t, r.fake.create, store.CreateOptions{
		Label: "label:a", Limit: 10 << 30,
		IDMap: &backend.IDMap{UIDs: []backend.IDRange{{Host: 7, Size: 9}}, GIDs: []backend.IDRange{{Host: 8, Size: 9}}},
	})
	r.ok("Get", arguments{ID: id("a"), MountLabel: "label:b"})
	assert.Equal(t, r.fake.mount.Label, "label:b")
	r.init() // a daemon without userns-remap
	r.ok("Create", arguments{ID: id("b")})
	assert.DeepEqual(t, r.fake.create, store.CreateOptions{})
	for _, bad := range []string{
		`{"Home":"/h","UIDMaps":[{"container_id":1,"host_id":7,"size":9}],"GIDMaps":[{"container_id":0,"host_id":7,"size":9}]}`,
		`{"Home":"/h","UIDMaps":[{"container_id":0,"host_id":7,"size":9}]}`,
		`{"Home":"/h","UIDMaps":[{"container_id":0,"host_id":-7,"size":9}]}`,
	} {
		status, _ := r.post("/GraphDriver.Init", strings.NewReader(bad))
		assert.Equal(t, status, http.StatusBadRequest, bad)
	}
}

func TestR16GetAnswersTheHostPath(t *testing.T) {
	r := newRig(t, Options{HostPath: Climb("/prop", "/store", "/var/lib/strata")})
	r.init()
	dir := r.ok("Get", arguments{ID: id("a")}).Dir
	assert.Assert(t, strings.HasPrefix(dir, "/prop/../.."), dir)
	assert.Equal(t, filepath.Clean(dir), "/var/lib/strata/mnt/"+id("a")[:6])
	assert.Equal(t, r.ok("GetMetadata", arguments{ID: id("a")}).Metadata["MergedDir"], "/var/lib/strata/mnt/disk")
}

func TestR17HomeAsTypedIsTheSameStore(t *testing.T) {
	r := newRig(t, Options{})
	for _, home := range []string{"/prop/strata", "/prop/strata:latest", "/prop/x/strata", "/prop/" + id("plugin")} {
		r.ok("Init", keeper.Init{Home: home})
		r.ok("Get", arguments{ID: id("a")})
	}
	assert.Equal(t, len(r.opened), 1)
}

func TestRepliesAreDockers(t *testing.T) {
	r := newRig(t, Options{Warnings: func(context.Context) []string { return []string{"no propagation"} }})
	r.fake.info = store.StoreInfo{
		Backend: "fake", Root: "/store", Sync: store.SyncLayer, ExactDiffs: true, Stores: []string{"/other"}, Mounted: 2,
		Layers: map[store.State]int{store.StateReady: 9, store.StateRemoving: 2, store.StateApplying: 1},
		Fields: []backend.Field{{Name: "File system", Value: "xfs"}},
	}
	r.init()
	assert.DeepEqual(t, r.ok("Status", arguments{}).Status, [][2]string{
		{"Backend", "fake"},
		{"Root", "/store"},
		{"Sync", "layer"},
		{"Exact diffs", "true"},
		{"Layers", "12 (1 applying, 2 removing)"},
		{"Mounted", "2"},
		{"Additional store", "/other"},
		{"File system", "xfs"},
		{"WARNING", "no propagation"},
	})
	assert.DeepEqual(t, r.ok("Changes", arguments{ID: id("a"), Parent: id("b")}).Changes, []backend.Change{
		{Path: "/a", Kind: 0}, {Path: "/a/b", Kind: 1}, {Path: "/a/c", Kind: 2},
	})
	assert.Equal(t, r.ok("DiffSize", arguments{ID: id("a")}).Size, int64(1<<40))
	assert.DeepEqual(t, r.ok("GetMetadata", arguments{ID: id("a")}).Metadata, map[string]string{
		"Backend": "fake", "Name": id("a"), "ID": "disk", "State": "ready", "Sealed": "false", "Parent": id("parent"),
		"MergedDir": "/store/mnt/disk", "Limit": "7", "DiffID": "sha256:1",
	})
}

// observed keeps what an Observer is told.
type observed struct {
	mu    sync.Mutex
	calls map[string][]string
}

func (o *observed) ObserveCall(c plugin.Call) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.calls[c.Op] = append(o.calls[c.Op], fmt.Sprintf("%t in=%d out=%d %v", c.Took > 0, c.In, c.Out, c.Err))
}

func TestObserverSeesEveryCall(t *testing.T) {
	o := &observed{calls: map[string][]string{}}
	r := newRig(t, Options{Observer: o})
	r.init()
	r.create("a", "")
	_, err := r.apply("a", "", &pattern{size: 1 << 20})
	assert.NilError(t, err)
	_, err = r.diff("a", "")
	assert.NilError(t, err)
	r.fake.onAny = func(string) error { return errors.New("no") }
	_, err = r.call("Get", arguments{ID: id("a")})
	assert.ErrorContains(t, err, "no")
	o.mu.Lock()
	defer o.mu.Unlock()
	assert.DeepEqual(t, o.calls, map[string][]string{
		"Init":      {"true in=0 out=0 <nil>"},
		"Create":    {"true in=0 out=0 <nil>"},
		"ApplyDiff": {"true in=1048576 out=0 <nil>"},
		"Diff":      {"true in=0 out=71 <nil>"},
		"Get":       {"true in=0 out=0 no"},
	})
}

// TestOneLineACall: one line at debug for a call that succeeds, one at error for one that fails.
func TestOneLineACall(t *testing.T) {
	r := newRig(t, Options{})
	r.init()
	r.log.Reset()
	r.ok("Get", arguments{ID: id("a")})
	r.fake.onAny = func(string) error { return errors.New("no") }
	_, err := r.call("Put", arguments{ID: id("a")})
	assert.ErrorContains(t, err, "no")
	_, err = r.call("Put", arguments{ID: strings.Repeat("x", 1000)})
	assert.ErrorContains(t, err, "layer id")
	var lines []string
	for _, e := range r.log.AllEntries() {
		_, timed := e.Data["took"]
		lines = append(lines, fmt.Sprint(e.Level, e.Message, e.Data["op"], e.Data["layer"], e.Data["backend"], timed))
	}
	assert.DeepEqual(t, lines, []string{
		fmt.Sprint("debug", "Get done", "Get", id("a"), "fake", true),
		fmt.Sprint("error", "Put failed", "Put", id("a"), "fake", true),
		fmt.Sprint("error", "Put failed", "Put", nil, "fake", true),
	})
}
