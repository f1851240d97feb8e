package graphdriver

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"strata/backend"
	"strata/backend/backendtest"
	"strata/backend/store"
	"strata/plugin/keeper"
)

func TestMain(m *testing.M) { os.Exit(backendtest.Main(m)) }

// disk is a handler over a real store with the simplest backend there is.
type disk struct {
	*peer
	k     *keeper.Keeper[*store.Store]
	root  string
	exact bool
	wrap  func(http.Handler) http.Handler // from the next restart on; nil is none
}

func newDisk(t *testing.T, exact bool) *disk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting layers needs root")
	}
	d := &disk{root: filepath.Join(t.TempDir(), "store"), exact: exact}
	t.Cleanup(func() { // after the last stop
		mounts, err := backendtest.MountsBelow(d.root)
		assert.Check(t, err)
		for _, m := range mounts {
			out, err := exec.Command("umount", "--lazy", m).CombinedOutput()
			t.Errorf("%s was left mounted; unmounted: %v %s", m, err, out)
		}
	})
	d.start(t)
	return d
}

// start begins a process's life on the store: with no memory of the one before but what is on disk.
func (d *disk) start(t *testing.T) {
	t.Helper()
	d.k = keeper.New(keeping(t, d.root, []string{fmt.Sprint("exact-diffs=", d.exact)}, backend.Driver{
		Name: "dir", Config: func() any { return &struct{}{} },
		Open: func(ctx context.Context, env backend.Env, _ any) (backend.Backend, error) {
			return backendtest.NewDir(ctx, env)
		},
	}))
	d.peer = serveWrapped(t, d.wrap, d.k, Options{})
}

func (d *disk) restart(t *testing.T) {
	t.Helper()
	d.stop()
	d.start(t)
}

// write mounts a layer, applies a step to it, and unmounts it.
func (d *disk) write(short string, s backendtest.Step) {
	d.t.Helper()
	dir := d.ok("Get", arguments{ID: id(short)}).Dir
	assert.NilError(d.t, s(dir))
	d.ok("Put", arguments{ID: id(short)})
}

// read mounts a layer and returns the content of what file made, or the error's text.
func (d *disk) read(short string) string {
	d.t.Helper()
	dir := d.ok("Get", arguments{ID: id(short)}).Dir
	b, err := os.ReadFile(filepath.Join(dir, "f"))
	d.ok("Put", arguments{ID: id(short)})
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func (d *disk) mounts() []string {
	d.t.Helper()
	list, err := backendtest.MountsBelow(d.root)
	assert.NilError(d.t, err)
	return list
}

func file(content string) backendtest.Step {
	return backendtest.CreateFile("f", []byte(content), 0o644)
}

// entry is a tar entry: a directory if the name ends with a slash, else a file.
type entry struct {
	name, content string
	uid           int
}

func makeTar(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: 0o644, Size: int64(len(e.content)), Typeflag: tar.TypeReg, Uid: e.uid, Gid: e.uid}
		if strings.HasSuffix(e.name, "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		assert.NilError(t, w.WriteHeader(h))
		_, err := io.WriteString(w, e.content)
		assert.NilError(t, err)
	}
	assert.NilError(t, w.Close())
	return b.Bytes()
}

// tarNames lists what is in a tar, with the owner of each.
func tarNames(t *testing.T, b []byte) (names []string) {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		assert.NilError(t, err)
		names = append(names, fmt.Sprintf("%s %d", h.Name, h.Uid))
	}
}

func TestR05CommitOverTheStore(t *testing.T) {
	d := newDisk(t, false)
	d.init()
	d.create("image", "")
	d.write("image", backendtest.Root(1, 200))
	d.create("container", "image")
	d.write("container", backendtest.Churn(2, 200, 50))
	d.ok("Get", arguments{ID: id("container")}) // commit of a running container
	d.create("commit", "image")
	stream, err := d.docker.Stream("GraphDriver.Diff", arguments{ID: id("container"), Parent: id("image")})
	assert.NilError(t, err)
	defer stream.Close()
	_, err = d.apply("commit", "image", stream)
	assert.NilError(t, err)
	changed := d.ok("Changes", arguments{ID: id("container"), Parent: id("image")}).Changes
	assert.Assert(t, len(changed) > 50)
	assert.DeepEqual(t, d.ok("Changes", arguments{ID: id("commit"), Parent: id("image")}).Changes, changed)
	assert.Equal(t, len(d.ok("Changes", arguments{ID: id("commit"), Parent: id("container")}).Changes), 0)
	d.ok("Put", arguments{ID: id("container")})
}

// cutting breaks the connection of the first ApplyDiff after some bytes of its stream.
type cutting struct {
	http.Handler
	after int
	once  sync.Once
}

func (c *cutting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	first := false
	if strings.HasSuffix(r.URL.Path, "ApplyDiff") {
		c.once.Do(func() { first, r.Body = true, &cutBody{ReadCloser: r.Body, left: c.after} })
	}
	c.Handler.ServeHTTP(w, r)
	if first {
		panic(http.ErrAbortHandler) // the answer has not been sent yet
	}
}

type cutBody struct {
	io.ReadCloser
	left int
}

func (c *cutBody) Read(b []byte) (int, error) {
	if c.left == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.ReadCloser.Read(b[:min(len(b), c.left)])
	c.left -= n
	return n, err
}

// TestR09RestOfTheStreamIsRefused: Docker's client repeats a broken ApplyDiff from where it stopped,
// and from there on the stream is a good tar too.
func TestR09RestOfTheStreamIsRefused(t *testing.T) {
	const half, piece = 4 << 20, 32 << 10 // the client reads pieces of 32 KiB (io.Copy)
	var whole bytes.Buffer
	for whole.Len() < 2*half { // each piece is a file, so that the rest begins with a header
		whole.Write(makeTar(t, entry{name: fmt.Sprint(whole.Len()), content: strings.Repeat("x", piece-512)})[:piece])
	}
	whole.Write(make([]byte, 1024))
	assert.Equal(t, len(tarNames(t, whole.Bytes()[half:])), half/piece)
	for _, exact := range []bool{false, true} {
		t.Run(fmt.Sprintf("exact=%t", exact), func(t *testing.T) {
			d := newDisk(t, exact)
			d.wrap = func(h http.Handler) http.Handler { return &cutting{Handler: h, after: half} }
			d.restart(t)
			d.init()
			d.create("x", "")
			stream := bytes.NewReader(whole.Bytes())
			_, err := d.apply("x", "", struct{ io.Reader }{stream})
			assert.ErrorContains(t, err, "applying")
			for _, body := range [][]byte{nil, whole.Bytes(), whole.Bytes()[half:]} {
				_, err = d.apply("x", "", bytes.NewReader(body))
				assert.ErrorContains(t, err, "GraphDriver.ApplyDiff")
			}
			_, err = d.call("Get", arguments{ID: id("x")})
			assert.ErrorContains(t, err, "applying")
			_, err = d.call("Create", arguments{ID: id("y"), Parent: id("x")})
			assert.ErrorContains(t, err, "applying")
			d.ok("Remove", arguments{ID: id("x")})

			d.create("x", "")
			_, err = d.apply("x", "", bytes.NewReader(whole.Bytes()))
			assert.NilError(t, err)
			_, err = d.apply("x", "", bytes.NewReader(whole.Bytes()))
			assert.ErrorContains(t, err, "has its content already")
		})
	}
}

// TestR09FillOnlyWhatWeCreated: a process that was killed before it saw the first byte of an
// ApplyDiff leaves an untouched layer, and the client sends the rest to the next process.
func TestR09FillOnlyWhatWeCreated(t *testing.T) {
	d := newDisk(t, true)
	d.init()
	d.create("x", "")
	d.restart(t)
	rest := makeTar(t, entry{name: "f", content: "rest"})
	_, err := d.apply("x", "", bytes.NewReader(rest))
	assert.ErrorContains(t, err, "may have been written to")
	_, err = d.apply("y", "", bytes.NewReader(rest))
	assert.ErrorContains(t, err, "not found")
	d.ok("Remove", arguments{ID: id("x")})
	d.create("x", "")
	_, err = d.apply("x", "", bytes.NewReader(rest))
	assert.NilError(t, err)
}

// TestR09ApplyingDoesNotSurviveARestart: what was being filled when the process died is gone.
func TestR09ApplyingDoesNotSurviveARestart(t *testing.T) {
	d := newDisk(t, false)
	d.init()
	d.create("x", "")
	_, err := d.apply("x", "", strings.NewReader("not a tar"))
	assert.ErrorContains(t, err, "GraphDriver.ApplyDiff")
	d.restart(t)
	assert.Assert(t, !d.ok("Exists", arguments{ID: id("x")}).Exists)
	d.create("x", "")
	_, err = d.apply("x", "", bytes.NewReader(makeTar(t, entry{name: "f", content: "good"})))
	assert.NilError(t, err)
	assert.Equal(t, d.read("x"), "good")
}

func TestR10CreateIsExclusive(t *testing.T) {
	d := newDisk(t, false)
	d.init()
	d.create("x", "")
	d.write("x", file("precious"))
	for _, method := range []string{"Create", "CreateReadWrite"} {
		_, err := d.call(method, arguments{ID: id("x")})
		assert.ErrorContains(t, err, "already exists")
	}
	assert.Equal(t, d.read("x"), "precious")
	_, err := d.call("Create", arguments{ID: id("y"), Parent: id("z")})
	assert.ErrorContains(t, err, "not found")
	_, err = d.call("Create", arguments{ID: id("y"), StorageOpt: map[string]string{"size": "1G"}})
	assert.ErrorContains(t, err, "limit", "a limit that cannot be kept is not ignored")
	d.ok("Remove", arguments{ID: id("x")})
	d.create("x", "")
	assert.Assert(t, is.Contains(d.read("x"), "no such file"))
	d.restart(t)
	assert.Assert(t, d.ok("Exists", arguments{ID: id("x")}).Exists, "durable before the reply")
}

func TestR11EmptyLayersAreParents(t *testing.T) {
	d := newDisk(t, false)
	d.init()
	d.create("a", "")
	d.create("b", "a") // a was never mounted nor filled
	d.write("b", file("init"))
	d.create("c", "b")
	assert.Equal(t, d.read("c"), "init")
	dir := d.ok("Get", arguments{ID: id("b")}).Dir
	assert.ErrorIs(t, os.WriteFile(filepath.Join(dir, "g"), nil, 0o600), unix.EROFS, "a parent is frozen")
	d.ok("Put", arguments{ID: id("b")})
}

func TestR12GetIsWritableAndStable(t *testing.T) {
	d := newDisk(t, false)
	d.init()
	d.create("x", "")
	dirs := make([]string, 16)
	var wg sync.WaitGroup
	for i := range dirs {
		wg.Go(func() {
			a, err := d.call("Get", arguments{ID: id("x")})
			assert.Check(t, err)
			dirs[i] = a.Dir
			assert.Check(t, os.WriteFile(filepath.Join(a.Dir, fmt.Sprint(i)), nil, 0o600))
		})
	}
	wg.Wait()
	for _, dir := range dirs {
		assert.Equal(t, dir, dirs[0])
	}
	assert.DeepEqual(t, d.mounts(), dirs[:1])
	for range len(dirs) - 1 {
		d.ok("Put", arguments{ID: id("x")})
	}
	assert.DeepEqual(t, d.mounts(), dirs[:1])

	d.restart(t) // with a container running
	assert.DeepEqual(t, d.mounts(), dirs[:1])
	assert.Equal(t, d.ok("Get", arguments{ID: id("x")}).Dir, dirs[0])
	d.ok("Put", arguments{ID: id("x")})
	d.init() // the daemon comes back too
	assert.DeepEqual(t, d.mounts(), dirs[:1])
	d.ok("Put", arguments{ID: id("x")})
	assert.Equal(t, len(d.mounts()), 0)
	assert.Equal(t, d.ok("Get", arguments{ID: id("x")}).Dir, dirs[0], "the same when it is mounted anew")
	d.ok("Put", arguments{ID: id("x")})
}

func TestR13PutAndRemoveForgive(t *testing.T) {
	d := newDisk(t, false)
	d.init()
	d.ok("Put", arguments{ID: id("missing")})
	d.ok("Remove", arguments{ID: id("missing")})
	d.create("x", "")
	for range 3 {
		d.ok("Put", arguments{ID: id("x")})
	}
	dir := d.ok("Get", arguments{ID: id("x")}).Dir
	assert.DeepEqual(t, d.mounts(), []string{dir})
	d.ok("Put", arguments{ID: id("x")})
	assert.Equal(t, len(d.mounts()), 0, "Puts before do not count")

	d.ok("Get", arguments{ID: id("x")})
	d.ok("Get", arguments{ID: id("x")})
	busy, err := os.Create(filepath.Join(dir, "busy")) // BuildKit removes without Put
	assert.NilError(t, err)
	d.ok("Remove", arguments{ID: id("x")})
	assert.Equal(t, len(d.mounts()), 0)
	assert.NilError(t, busy.Close())
	d.ok("Remove", arguments{ID: id("x")})
	d.ok("Put", arguments{ID: id("x")})
	assert.Assert(t, !d.ok("Exists", arguments{ID: id("x")}).Exists)

	d.create("p", "")
	d.create("c", "p")
	d.ok("Remove", arguments{ID: id("p")}) // Docker forgot the child when it was killed
	assert.Assert(t, !d.ok("Exists", arguments{ID: id("p")}).Exists)
	d.ok("Get", arguments{ID: id("c")})
	d.ok("Remove", arguments{ID: id("c")})
}

// TestR14NothingIsGuessedToBeGarbage: an init layer whose container was never made is kept over a
// restart, and can be removed by who knows that it is an orphan.
func TestR14NothingIsGuessedToBeGarbage(t *testing.T) {
	d := newDisk(t, false)
	d.init()
	d.create("image", "")
	initLayer := id("c") + "-init"
	d.ok("CreateReadWrite", arguments{ID: initLayer, Parent: id("image")})
	d.restart(t)
	assert.Assert(t, d.ok("Exists", arguments{ID: initLayer}).Exists)
	d.ok("Remove", arguments{ID: initLayer})
	d.ok("Remove", arguments{ID: id("image")})
}

func TestR15OwnersAreMappedBothWays(t *testing.T) {
	d := newDisk(t, false)
	m := []backend.IDRange{{Container: 0, Host: 100_000, Size: 65_536}}
	d.ok("Init", keeper.Init{Home: "/prop/strata", UIDMaps: m, GIDMaps: m})
	d.create("x", "")
	_, err := d.apply("x", "", bytes.NewReader(makeTar(t, entry{name: "root"}, entry{name: "user", uid: 1000})))
	assert.NilError(t, err)
	dir := d.ok("Get", arguments{ID: id("x")}).Dir
	for name, want := range map[string]uint32{"": 100_000, "root": 100_000, "user": 101_000} {
		var st unix.Stat_t
		assert.NilError(t, unix.Lstat(filepath.Join(dir, name), &st))
		assert.Equal(t, st.Uid, want, name)
		assert.Equal(t, st.Gid, want, name)
	}
	d.ok("Put", arguments{ID: id("x")})
	b, err := d.diff("x", "")
	assert.NilError(t, err)
	assert.DeepEqual(t, tarNames(t, b), []string{"root 0", "user 1000"})
}

func TestR19DiffIsReproducible(t *testing.T) {
	for _, exact := range []bool{false, true} {
		t.Run(fmt.Sprintf("exact=%t", exact), func(t *testing.T) {
			d := newDisk(t, exact)
			d.init()
			assert.Equal(t, d.ok("Capabilities", arguments{}).Capabilities.ReproducesExactDiffs, exact)
			d.create("image", "")
			given := makeTar(t, entry{name: "b", content: "1"}, entry{name: "a/"}, entry{name: "./a/x", content: "2"})
			_, err := d.apply("image", "", bytes.NewReader(given))
			assert.NilError(t, err)
			d.ok("CreateReadWrite", arguments{ID: id("c") + "-init", Parent: id("image")})
			d.ok("CreateReadWrite", arguments{ID: id("c"), Parent: id("c") + "-init"})
			d.write("c", backendtest.Root(3, 100))
			stream := func() []byte {
				r, err := d.docker.Stream("GraphDriver.Diff", arguments{ID: id("c"), Parent: id("c") + "-init"})
				assert.NilError(t, err)
				defer r.Close()
				b, err := io.ReadAll(r)
				assert.NilError(t, err)
				return b
			}
			first := stream()
			assert.Assert(t, len(tarNames(t, first)) >= 100)
			assert.Assert(t, bytes.Equal(first, stream()))
			image, err := d.diff("image", "")
			assert.NilError(t, err)
			assert.Equal(t, bytes.Equal(image, given), exact)
			d.restart(t)
			assert.Assert(t, bytes.Equal(first, stream()))
			again, err := d.diff("image", "")
			assert.NilError(t, err)
			assert.Assert(t, bytes.Equal(again, image))
		})
	}
}

func TestR20WhiteoutsAreDockers(t *testing.T) {
	d := newDisk(t, false)
	d.init()
	d.create("base", "")
	_, err := d.apply("base", "", bytes.NewReader(makeTar(t,
		entry{name: "keep"}, entry{name: "gone"}, entry{name: "dir/"}, entry{name: "dir/old"}, entry{name: "tree/"}, entry{name: "tree/leaf"})))
	assert.NilError(t, err)
	d.create("top", "base")
	_, err = d.apply("top", "base", bytes.NewReader(makeTar(t,
		entry{name: ".wh..wh.plnk/"}, entry{name: ".wh.gone"}, entry{name: "dir/"}, entry{name: "dir/.wh..wh..opq"},
		entry{name: "dir/new"}, entry{name: ".wh.tree"})))
	assert.NilError(t, err)
	assert.DeepEqual(t, d.ok("Changes", arguments{ID: id("top"), Parent: id("base")}).Changes, []backend.Change{
		{Path: "/dir", Kind: backend.Modified},
		{Path: "/dir/new", Kind: backend.Added},
		{Path: "/dir/old", Kind: backend.Deleted},
		{Path: "/gone", Kind: backend.Deleted},
		{Path: "/tree", Kind: backend.Deleted},
	})
	b, err := d.diff("top", "base")
	assert.NilError(t, err)
	names := tarNames(t, b)
	for _, want := range []string{".wh.gone 0", ".wh.tree 0", "dir/.wh.old 0", "dir/new 0"} {
		assert.Assert(t, is.Contains(names, want))
	}
}

func TestR21SizesAreFileSizes(t *testing.T) {
	d := newDisk(t, false)
	d.init()
	d.create("base", "")
	size, err := d.apply("base", "", bytes.NewReader(makeTar(t,
		entry{name: "dir/"}, entry{name: "dir/a", content: strings.Repeat("a", 1000)}, entry{name: "b", content: "bb"})))
	assert.NilError(t, err)
	assert.Equal(t, size, int64(1002))
	assert.Equal(t, d.ok("DiffSize", arguments{ID: id("base")}).Size, size)
	d.create("c", "base")
	assert.Equal(t, d.ok("DiffSize", arguments{ID: id("c"), Parent: id("base")}).Size, int64(0))
	dir := d.ok("Get", arguments{ID: id("c")}).Dir // running
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "log"), make([]byte, 12_345), 0o600))
	assert.Equal(t, d.ok("DiffSize", arguments{ID: id("c"), Parent: id("base")}).Size, int64(12_345))
	d.ok("Put", arguments{ID: id("c")})
}
