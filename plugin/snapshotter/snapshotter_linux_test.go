package snapshotter

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/backendtest"
	"strata/backend/store"
	"strata/plugin"
)

func TestMain(m *testing.M) { os.Exit(backendtest.Main(collected{m})) }

// collected closes what containerd's content store leaves to the garbage collector: a descriptor of its check for fs-verity.
type collected struct{ *testing.M }

func (c collected) Run() int {
	code := c.M.Run()
	runtime.GC()
	return code
}

// rig is a snapshotter over a real store with the simplest backend there is.
type rig struct {
	*Snapshotter
	t     *testing.T
	store *store.Store
}

func newRig(t *testing.T, o Options) *rig {
	t.Helper()
	return newRigOn(t, store.Config{Backend: "dir", New: backendtest.NewDir}, o)
}

func newRigOn(t *testing.T, c store.Config, o Options) *rig {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting layers needs root")
	}
	c.Root = filepath.Join(t.TempDir(), "store")
	s, err := store.Open(t.Context(), c)
	assert.NilError(t, err)
	t.Cleanup(func() { assert.Check(t, s.Close(context.WithoutCancel(t.Context()))) })
	o.Store = func(context.Context) (Layers, error) { return s, nil }
	return &rig{New(o), t, s}
}

// commit makes a committed snapshot that holds a file of its own name.
func (r *rig) commit(name string) {
	r.t.Helper()
	mounts, err := r.Prepare(r.t.Context(), "draft of "+name, "")
	assert.NilError(r.t, err)
	assert.NilError(r.t, os.WriteFile(filepath.Join(mounts[0].Source, name), nil, 0o600))
	assert.NilError(r.t, r.Commit(r.t.Context(), name, "draft of "+name))
}

func (r *rig) walk(filters ...string) (names []string) {
	r.t.Helper()
	assert.NilError(r.t, r.Walk(r.t.Context(), func(_ context.Context, i snapshots.Info) error {
		names = append(names, i.Name)
		return nil
	}, filters...))
	return names
}

// TestDockersLayersAreNotSnapshots: one store, two front ends, and neither sees what the other has.
func TestDockersLayersAreNotSnapshots(t *testing.T) {
	r := newRig(t, Options{})
	assert.NilError(t, r.store.Create(t.Context(), "docker", "", store.CreateOptions{}))
	r.commit("a")
	assert.DeepEqual(t, r.walk(), []string{"a"})
	for what, err := range map[string]error{
		"stat":    second(r.Stat(t.Context(), "docker")),
		"usage":   second(r.Usage(t.Context(), "docker")),
		"mounts":  second(r.Mounts(t.Context(), "docker")),
		"remove":  r.Remove(t.Context(), "docker"),
		"update":  second(r.Update(t.Context(), snapshots.Info{Name: "docker"})),
		"commit":  r.Commit(t.Context(), "x", "docker"),
		"prepare": second(r.Prepare(t.Context(), "x", "docker")),
		"view":    second(r.View(t.Context(), "x", "docker")),
	} {
		assert.Assert(t, errdefs.IsNotFound(err), "%s: %v", what, err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestErrors(t *testing.T) {
	r := newRig(t, Options{})
	r.commit("base")
	_, err := r.Prepare(t.Context(), "active", "base")
	assert.NilError(t, err)
	_, err = r.View(t.Context(), "view", "base")
	assert.NilError(t, err)
	long := strings.Repeat("v", 4096)
	label := func(key, value string) snapshots.Opt {
		return snapshots.WithLabels(map[string]string{key: value})
	}
	for _, tc := range []struct {
		what string
		err  error
		is   func(error) bool
	}{
		{"a parent that is active", second(r.Prepare(t.Context(), "x", "active")), errdefs.IsInvalidArgument},
		{"a parent that is a view", second(r.View(t.Context(), "x", "view")), errdefs.IsInvalidArgument},
		{"the same key", second(r.Prepare(t.Context(), "active", "base")), errdefs.IsAlreadyExists},
		{"the key of a view", second(r.View(t.Context(), "view", "base")), errdefs.IsAlreadyExists},
		{"mounts of a committed snapshot", second(r.Mounts(t.Context(), "base")), errdefs.IsFailedPrecondition},
		{"commit of a view", r.Commit(t.Context(), "x", "view"), errdefs.IsFailedPrecondition},
		{"commit of a committed snapshot", r.Commit(t.Context(), "x", "base"), errdefs.IsFailedPrecondition},
		{"commit under a name that is taken", r.Commit(t.Context(), "base", "active"), errdefs.IsAlreadyExists},
		{"commit on a view", r.Commit(t.Context(), "x", "active", snapshots.WithParent("view")), errdefs.IsFailedPrecondition},
		{"removal of a parent", r.Remove(t.Context(), "base"), errdefs.IsFailedPrecondition},
		{"a limit that the backend cannot keep", second(r.Prepare(t.Context(), "x", "base", label(snapshots.LabelSnapshotMaxSize, "4096"))), errdefs.IsNotImplemented},
		{"a limit that is none", second(r.Prepare(t.Context(), "x", "base", label(snapshots.LabelSnapshotMaxSize, "4K"))), errdefs.IsInvalidArgument},
		{"a map of users only", second(r.Prepare(t.Context(), "x", "base", label(snapshots.LabelSnapshotUIDMapping, "0:1:2"))), errdefs.IsInvalidArgument},
		{"our labels in a view", second(r.View(t.Context(), "x", "base", label("strata/kind", "active"))), errdefs.IsInvalidArgument},
		{"our labels in a commit", r.Commit(t.Context(), "x", "active", label("strata/updated", "")), errdefs.IsInvalidArgument},
		{"our label as a field", second(r.Update(t.Context(), snapshots.Info{Name: "base"}, "labels.strata/kind")), errdefs.IsInvalidArgument},
		{"our label among fields", second(r.Update(t.Context(), snapshots.Info{Name: "base"}, "labels.a", "labels.strata/updated")), errdefs.IsInvalidArgument},
		{"our label, though another is the field", second(r.Update(t.Context(), snapshots.Info{Name: "base", Labels: map[string]string{"strata/parent": "x"}}, "labels.a")), errdefs.IsInvalidArgument},
		{"a long label", second(r.Prepare(t.Context(), "x", "base", label("a", long))), errdefs.IsInvalidArgument},
		{"a long label in a view", second(r.View(t.Context(), "x", "base", label("a", long))), errdefs.IsInvalidArgument},
		{"a long label in a commit", r.Commit(t.Context(), "x", "active", label("a", long)), errdefs.IsInvalidArgument},
		{"a long label, later", second(r.Update(t.Context(), snapshots.Info{Name: "base", Labels: map[string]string{"a": long}})), errdefs.IsInvalidArgument},
		{"a long label as a field", second(r.Update(t.Context(), snapshots.Info{Name: "base", Labels: map[string]string{"a": long}}, "labels.a")), errdefs.IsInvalidArgument},
		{"a label without a key", second(r.Update(t.Context(), snapshots.Info{Name: "base", Labels: map[string]string{"": "a"}}, "labels.")), errdefs.IsInvalidArgument},
		{"our labels", second(r.Prepare(t.Context(), "x", "base", label("strata/kind", "view"))), errdefs.IsInvalidArgument},
		{"our labels, later", second(r.Update(t.Context(), snapshots.Info{Name: "base", Labels: map[string]string{"strata/kind": "view"}})), errdefs.IsInvalidArgument},
		{"another field", second(r.Update(t.Context(), snapshots.Info{Name: "base"}, "parent")), errdefs.IsInvalidArgument},
		{"a filter that is none", r.Walk(t.Context(), nil, "=="), errdefs.IsInvalidArgument},
	} {
		assert.Assert(t, tc.is(tc.err), "%s: %v", tc.what, tc.err)
	}
	assert.DeepEqual(t, r.walk(), []string{"active", "base", "view"})
	for _, name := range r.walk() {
		i, err := r.Stat(t.Context(), name)
		assert.NilError(t, err)
		assert.Equal(t, len(i.Labels), 0, "%s: %v", name, i.Labels)
	}
}

func TestLabels(t *testing.T) {
	r := newRig(t, Options{})
	_, err := r.Prepare(t.Context(), "a", "", snapshots.WithLabels(map[string]string{"x": "1", "y": "2", "z": ""}))
	assert.NilError(t, err)
	for _, tc := range []struct {
		want  map[string]string
		paths []string
		got   map[string]string
	}{
		{map[string]string{"x": "3", "y": "4"}, []string{"labels.x"}, map[string]string{"x": "3", "y": "2"}},
		{map[string]string{"z": "5"}, []string{"labels.z", "labels.y"}, map[string]string{"x": "3", "z": "5"}},
		{map[string]string{"w": "6"}, nil, map[string]string{"w": "6"}},
		{map[string]string{"w": "7", "x": ""}, []string{"labels"}, map[string]string{"w": "7"}},
		{nil, []string{"labels"}, nil},
	} {
		before, err := r.Stat(t.Context(), "a")
		assert.NilError(t, err)
		i, err := r.Update(t.Context(), snapshots.Info{Name: "a", Labels: tc.want}, tc.paths...)
		assert.NilError(t, err)
		assert.DeepEqual(t, i.Labels, tc.got)
		again, err := r.Stat(t.Context(), "a")
		assert.NilError(t, err)
		assert.DeepEqual(t, again, i)
		assert.Assert(t, i.Updated.After(before.Updated))
		assert.Assert(t, i.Kind == snapshots.KindActive)
	}
	// Commit takes no labels over.
	assert.NilError(t, r.Commit(t.Context(), "c", "a", snapshots.WithLabels(map[string]string{"new": "1"})))
	i, err := r.Stat(t.Context(), "c")
	assert.NilError(t, err)
	assert.DeepEqual(t, i.Labels, map[string]string{"new": "1"})
	assert.DeepEqual(t, r.walk("kind==committed,labels.new==1"), []string{"c"})
}

// TestUpdateBesideOthers: no Update undoes another, and none turns a committed snapshot into what it was before.
func TestUpdateBesideOthers(t *testing.T) {
	r := newRig(t, Options{})
	const rounds, workers = 50, 4
	for round := range rounds {
		key, name := fmt.Sprint("k", round), fmt.Sprint("c", round)
		_, err := r.Prepare(t.Context(), key, "")
		assert.NilError(t, err)
		want := map[string]string{}
		var g errgroup.Group
		for w := range workers {
			label := fmt.Sprint("l", w)
			want[label] = "1"
			g.Go(func() error {
				return second(r.Update(t.Context(), snapshots.Info{Name: key, Labels: map[string]string{label: "1"}}, "labels."+label))
			})
		}
		assert.NilError(t, g.Wait())
		i, err := r.Stat(t.Context(), key)
		assert.NilError(t, err)
		assert.DeepEqual(t, i.Labels, want)
		for range workers {
			g.Go(func() error {
				if _, err := r.Update(t.Context(), snapshots.Info{Name: key, Labels: map[string]string{"late": "1"}}); !errdefs.IsNotFound(err) {
					return err
				}
				return nil
			})
		}
		g.Go(func() error { return r.Commit(t.Context(), name, key) })
		assert.NilError(t, g.Wait())
		i, err = r.Stat(t.Context(), name)
		assert.NilError(t, err)
		assert.Assert(t, i.Kind == snapshots.KindCommitted, "round %d: %v", round, i.Kind)
		assert.Equal(t, len(i.Labels), 0)
	}
}

func TestHostPath(t *testing.T) {
	r := newRig(t, Options{HostPath: func(path string) string { return "/host" + path }})
	mounts, err := r.Prepare(t.Context(), "a", "")
	assert.NilError(t, err)
	i, err := r.store.Stat(t.Context(), Prefix+"a")
	assert.NilError(t, err)
	assert.Equal(t, filepath.Base(mounts[0].Source), i.ID)
	assert.Assert(t, filepath.HasPrefix(mounts[0].Source, "/host/")) //nolint:staticcheck // a clean path
	assert.Equal(t, r.option("lowerdir=/a:/b"), "lowerdir=/host/a:/host/b")
	assert.Equal(t, r.option("index=off"), "index=off")
	assert.Equal(t, r.option("ro"), "ro")
}

func TestIDMaps(t *testing.T) {
	m, err := idMap("0:100000:65536,65536:5:1", "0:7:1")
	assert.NilError(t, err)
	assert.DeepEqual(t, m, &backend.IDMap{
		UIDs: []backend.IDRange{{Host: 100000, Size: 65536}, {Container: 65536, Host: 5, Size: 1}},
		GIDs: []backend.IDRange{{Host: 7, Size: 1}},
	})
	for _, text := range []string{"0", "0:1", "0:1:0", "0:1:2:3", "-1:0:1", "0:1:4294967296", "0:1:4294967295000", "2:0:4294967295", "0:2:4294967295", "0:1:4294967295", "1:0:4294967295", "4294967295:0:1", "0:100:10,5:200:10", "a:b:c", ",", "0:1:2,"} {
		_, err := idMap(text, "0:1:2")
		assert.Assert(t, errdefs.IsInvalidArgument(err), "%q: %v", text, err)
	}
}

// blobs is a content store with layers in it.
type blobs struct {
	content.Store
	t testing.TB
}

func newBlobs(t testing.TB) blobs {
	t.Helper()
	s, err := local.NewLabeledStore(t.TempDir(), &memory{})
	assert.NilError(t, err)
	return blobs{s, t}
}

func (b blobs) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	r, err := b.ReaderAt(ctx, desc)
	if err != nil {
		return nil, err
	}
	return blobReader{content.NewReader(r), r}, nil
}

// Namespaces says that there is one.
func (b blobs) Namespaces(context.Context) ([]string, error) { return []string{"first"}, nil }

// Lease does nothing: nothing is collected.
func (b blobs) Lease(ctx context.Context) (context.Context, error) { return ctx, nil }

// memory keeps the labels of a content store.
type memory struct {
	labels map[digest.Digest]map[string]string
}

func (m *memory) Get(d digest.Digest) (map[string]string, error) { return m.labels[d], nil }

func (m *memory) Set(d digest.Digest, labels map[string]string) error {
	if m.labels == nil {
		m.labels = map[digest.Digest]map[string]string{}
	}
	m.labels[d] = labels
	return nil
}

func (m *memory) Update(d digest.Digest, labels map[string]string) (map[string]string, error) {
	return labels, m.Set(d, labels)
}

func (b blobs) add(mediaType string, text []byte) ocispec.Descriptor {
	b.t.Helper()
	d := ocispec.Descriptor{MediaType: mediaType, Size: int64(len(text)), Digest: digest.FromBytes(text)}
	assert.NilError(b.t, content.WriteBlob(b.t.Context(), b.Store, d.Digest.String(), bytes.NewReader(text), d))
	return d
}

// layer is a tar with files of these names.
func layer(t testing.TB, names ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range names {
		assert.NilError(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(name))}))
		_, err := io.WriteString(w, name)
		assert.NilError(t, err)
	}
	assert.NilError(t, w.Close())
	return b.Bytes()
}

func zip(t testing.TB, text []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(text)
	assert.NilError(t, err)
	assert.NilError(t, w.Close())
	return b.Bytes()
}

func TestDiffer(t *testing.T) {
	r, b := newRig(t, Options{}), newBlobs(t)
	d := NewDiffer(r.Snapshotter, b)
	text := layer(t, "a", "b")
	for i, desc := range []ocispec.Descriptor{
		b.add(ocispec.MediaTypeImageLayerGzip, zip(t, text)),
		b.add(ocispec.MediaTypeImageLayer, text),
		b.add("application/vnd.docker.image.rootfs.diff.tar.gzip", append(zip(t, text), zip(t, nil)...)),
	} {
		key := fmt.Sprint("k", i)
		mounts, err := r.Prepare(t.Context(), key, "")
		assert.NilError(t, err)
		got, err := d.Apply(t.Context(), desc, mounts)
		assert.NilError(t, err)
		assert.DeepEqual(t, got, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Size: int64(len(text)), Digest: digest.FromBytes(text)})
		assert.NilError(t, r.Commit(t.Context(), fmt.Sprint("c", i), key))
	}
	mounts, err := r.Prepare(t.Context(), "no blob", "c0")
	assert.NilError(t, err)
	_, err = d.Apply(t.Context(), ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString("x")}, mounts)
	assert.Assert(t, errdefs.IsNotFound(err), "%v", err)
	mounts, err = r.Prepare(t.Context(), "torn", "c0")
	assert.NilError(t, err)
	whole := zip(t, layer(t, "c"))
	_, err = d.Apply(t.Context(), b.add(ocispec.MediaTypeImageLayerGzip, whole[:len(whole)/2]), mounts)
	assert.Assert(t, err != nil)
	assert.Assert(t, errdefs.IsFailedPrecondition(r.Commit(t.Context(), "x", "torn")), "it holds half a layer")
	assert.NilError(t, r.Remove(t.Context(), "torn"))

	// Others' mounts are others' business.
	for _, mounts := range [][]mount.Mount{nil, {{Type: "bind", Source: t.TempDir()}}, {{Type: "bind", Source: mounts[0].Source + "/sub", Options: mounts[0].Options}}} {
		_, err = d.Apply(t.Context(), b.add(ocispec.MediaTypeImageLayer, text), mounts)
		assert.Assert(t, errdefs.IsNotImplemented(err), "%v: %v", mounts, err)
	}
}

func TestCompare(t *testing.T) {
	r, b := newRig(t, Options{}), newBlobs(t)
	d := NewDiffer(r.Snapshotter, b)
	r.commit("base")
	upper, err := r.Prepare(t.Context(), "active", "base")
	assert.NilError(t, err)
	assert.NilError(t, os.WriteFile(filepath.Join(upper[0].Source, "new"), []byte("new"), 0o600))
	assert.NilError(t, os.Remove(filepath.Join(upper[0].Source, "base")))
	lower, err := r.View(t.Context(), "lower", "base")
	assert.NilError(t, err)
	nothing, err := r.View(t.Context(), "nothing", "")
	assert.NilError(t, err)
	ctx := namespaces.WithNamespace(t.Context(), "first")
	for _, tc := range []struct {
		lower, upper []mount.Mount
		mediaType    string
		want         []string
	}{
		{lower, upper, "", []string{".wh.base", "new"}},
		{lower, upper, ocispec.MediaTypeImageLayerZstd, []string{".wh.base", "new"}},
		{lower, upper, ocispec.MediaTypeImageLayer, []string{".wh.base", "new"}},
		{nothing, lower, ocispec.MediaTypeImageLayer, []string{"base"}},
		{nil, upper, ocispec.MediaTypeImageLayer, []string{"new"}},
	} {
		desc, err := d.Compare(ctx, tc.lower, tc.upper, diff.WithMediaType(tc.mediaType), diff.WithLabels(map[string]string{"l": "1"}))
		assert.NilError(t, err)
		i, err := b.Info(t.Context(), desc.Digest)
		assert.NilError(t, err)
		assert.Equal(t, i.Size, desc.Size)
		text := b.tar(desc)
		assert.DeepEqual(t, names(t, text), tc.want)
		assert.Equal(t, i.Labels["containerd.io/uncompressed"], digest.FromBytes(text).String())
	}
	_, err = d.Compare(t.Context(), lower, upper)
	assert.ErrorContains(t, err, "does not say in which namespace")
	assert.Assert(t, errdefs.IsNotImplemented(err), "%v", err)
	_, err = d.Compare(ctx, []mount.Mount{{Type: "bind", Source: "/"}}, upper)
	assert.Assert(t, errdefs.IsNotImplemented(err), "%v", err)
	_, err = d.Compare(ctx, lower, upper, diff.WithMediaType("application/zip"))
	assert.Assert(t, errdefs.IsNotImplemented(err), "%v", err)
}

// tar returns a blob, uncompressed.
func (b blobs) tar(desc ocispec.Descriptor) []byte {
	b.t.Helper()
	ra, err := b.ReaderAt(b.t.Context(), desc)
	assert.NilError(b.t, err)
	defer ra.Close()
	r, err := uncompress(content.NewReader(ra))
	assert.NilError(b.t, err)
	text, err := io.ReadAll(r)
	assert.NilError(b.t, err)
	assert.NilError(b.t, r.Close())
	return text
}

// names lists the members of a tar.
func names(t *testing.T, text []byte) (list []string) {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(text)); ; {
		h, err := r.Next()
		if err == io.EOF {
			slices.Sort(list)
			return list
		}
		assert.NilError(t, err)
		list = append(list, h.Name)
	}
}

func FuzzIDMap(f *testing.F) {
	f.Add("0:100000:65536", "0:100000:65536,65536:1:1")
	f.Add("::", ",")
	f.Fuzz(func(t *testing.T, uids, gids string) {
		m, err := idMap(uids, gids)
		if err != nil {
			assert.Assert(t, errdefs.IsInvalidArgument(err), "%v", err)
			return
		}
		if m == nil {
			return
		}
		for _, r := range append(slices.Clone(m.UIDs), m.GIDs...) {
			assert.Assert(t, r.Size > 0)
		}
	})
}

// dial serves a snapshotter and a differ, and returns a connection to them.
func dial(t *testing.T, s *Snapshotter, d *Differ, o plugin.Observer) *grpc.ClientConn {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s.sock")
	l, err := plugin.Listen(t.Context(), socket)
	assert.NilError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- NewServer(s, d, o).Serve(ctx, l) }()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	assert.NilError(t, err)
	t.Cleanup(func() {
		assert.Check(t, conn.Close())
		cancel()
		assert.Check(t, <-served)
	})
	return conn
}

// TestPanicFailsOneCall: the client is told, and the server goes on.
func TestPanicFailsOneCall(t *testing.T) {
	s := New(Options{Store: func(context.Context) (Layers, error) { panic("bug") }})
	client := proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(dial(t, s, nil, nil)), "strata")
	for range 2 {
		_, err := client.Stat(t.Context(), "key")
		assert.ErrorContains(t, err, "a bug, see its log")
		assert.ErrorContains(t, client.Walk(t.Context(), nil), "a bug, see its log")
	}
}

// TestErrorsNameTheHostsPaths: containerd cannot follow a path inside the plugin.
func TestErrorsNameTheHostsPaths(t *testing.T) {
	s := New(Options{
		Store: func(context.Context) (Layers, error) {
			return nil, fmt.Errorf("open /data/x: %w", errdefs.ErrUnavailable)
		},
		HostText: plugin.Renamer(map[string]string{"/data": "/var/lib"}),
	})
	client := proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(dial(t, s, nil, nil)), "strata")
	_, err := client.Stat(t.Context(), "key")
	assert.Assert(t, errdefs.IsUnavailable(err), "%v", err)
	assert.ErrorContains(t, err, "open /var/lib/x")
}

// TestUnseen: where containerd would not see what a backend prepares, it is told so, and nothing stays.
func TestUnseen(t *testing.T) {
	r := newRigOn(t, store.Config{
		Backend: "active", New: backendtest.NewActive, Unseen: func(string) error { return errdefs.ErrFailedPrecondition },
	}, Options{})
	_, err := r.Prepare(t.Context(), "a", "")
	assert.Assert(t, errdefs.IsFailedPrecondition(err), "%v", err)
	assert.Equal(t, len(r.walk()), 0)
}
