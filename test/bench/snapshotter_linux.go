package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/content"
	contentproxy "github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/containerd/containerd/v2/core/diff"
	diffproxy "github.com/containerd/containerd/v2/core/diff/proxy"
	"github.com/containerd/containerd/v2/core/leases"
	leasesproxy "github.com/containerd/containerd/v2/core/leases/proxy"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	snapshotsproxy "github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"strata/test/e2e/engine"
)

// Sockets in a machine.
const (
	containerdSocket  = "/run/containerd/containerd.sock"
	snapshotterSocket = "/run/strata/snapshotter.sock"
	strataSocket      = "/run/docker/plugins/strata.sock"
)

// runtime is a containerd with one snapshotter, on a machine of its own.
type runtime struct {
	name        string
	snapshotter string
	m           *engine.Machine
	services    []*engine.Service
	conn        *grpc.ClientConn
	snapshots   snapshots.Snapshotter
	applier     diff.Applier
	content     content.Store
	number      int
	program     string // Strata, "" for containerd's own
}

// benchSnapshotter measures what containerd asks of a snapshotter and a differ, against the ones that it has itself.
func benchSnapshotter(ctx context.Context, o options, w *workloads, t *table) (err error) {
	cache, err := engine.OpenCache()
	if err != nil {
		return err
	}
	usr, err := engine.Docker29().Usr(ctx, cache)
	if err != nil {
		return err
	}
	var all []*runtime
	defer func() {
		for _, r := range all {
			err = errors.Join(err, r.stop())
		}
	}()
	for _, k := range snapshotterKinds(o) {
		progress("starting %s", k.name)
		r := &runtime{name: k.name, snapshotter: k.snapshotter}
		all = append(all, r)
		if err := r.start(ctx, o.fs, usr, k.sync, k.plugin); err != nil {
			return fmt.Errorf("start %s: %w", k.name, err)
		}
		if err := r.load(ctx, o, w); err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
	}
	for round := range o.rounds {
		progress("round %d", round+1)
		for _, i := range turns(round, len(all)) {
			r := all[i]
			if err := r.measure(ctx, o, w, t); err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
		}
	}
	return nil
}

// snapshotterKind says how to make a runtime.
type snapshotterKind struct{ name, snapshotter, sync, plugin string }

// snapshotterKinds lists them, containerd's own first.
func snapshotterKinds(o options) []snapshotterKind {
	chosen := []snapshotterKind{{name: "overlayfs", snapshotter: "overlayfs"}}
	for _, sync := range []string{"layer", "none", nullName} {
		switch {
		case o.only != "" && !has(o.only, sync):
		case sync == nullName:
			chosen = append(chosen, snapshotterKind{sync, "strata", sync, ""})
		default:
			for _, v := range o.versions() {
				chosen = append(chosen, snapshotterKind{sync + v.suffix, "strata", sync, v.plugin})
			}
		}
	}
	return chosen
}

func (r *runtime) start(ctx context.Context, fs, usr, sync, plugin string) (err error) {
	if r.m, err = engine.Boot(ctx, engine.Config{Usr: usr, FS: fs, Bare: true}); err != nil {
		return err
	}
	config := "version = 3\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n"
	serve := func(name, socket string, argv ...string) error {
		s, err := r.m.Serve(ctx, name, socket, argv...)
		if err == nil {
			r.services = append(r.services, s)
		}
		return err
	}
	if sync != "" {
		config += `[proxy_plugins.strata]
  type = "snapshot"
  address = "` + snapshotterSocket + `"
  capabilities = ["rebase", "remap-ids"]
[proxy_plugins.strata-diff]
  type = "diff"
  address = "` + snapshotterSocket + `"
[plugins."io.containerd.service.v1.diff-service"]
  default = ["strata-diff", "walking"]
`
		if err := r.serveSnapshots(sync, plugin, serve); err != nil {
			return err
		}
	}
	if err := os.WriteFile(r.m.Path("/etc/containerd-bench.toml"), []byte(config), 0o600); err != nil {
		return err
	}
	if err := serve("containerd", containerdSocket, "containerd", "--config", "/etc/containerd-bench.toml", "--log-level", "error"); err != nil {
		return err
	}
	r.conn, err = grpc.NewClient("unix://"+r.m.Path(containerdSocket), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	r.snapshots = snapshotsproxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(r.conn), r.snapshotter)
	var ok bool
	if r.applier, ok = diffproxy.NewDiffApplier(diffapi.NewDiffClient(r.conn)).(diff.Applier); !ok {
		return errors.New("containerd's client for differs applies nothing")
	}
	r.content = contentproxy.NewContentStore(r.conn)
	return nil
}

// nullName is the contender that throws away what it is given.
const nullName = "null"

// serveSnapshots starts Strata, or what takes its place.
func (r *runtime) serveSnapshots(sync, plugin string, serve func(name, socket string, argv ...string) error) (err error) {
	if sync == nullName {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		if err := os.MkdirAll(r.m.Path(filepath.Dir(snapshotterSocket)), 0o700); err != nil {
			return err
		}
		return serve("bench", snapshotterSocket, self, "null-snapshotter", "-socket", snapshotterSocket,
			"-blobs", "/var/lib/containerd/io.containerd.content.v1.content/blobs")
	}
	if r.program, err = binary(plugin); err != nil {
		return err
	}
	return serve("strata", snapshotterSocket, r.program, "serve", "--snapshotter-socket", snapshotterSocket,
		"--graphdriver-socket", strataSocket, "--option", "sync="+sync, "--option", "log-level=warn")
}

func (r *runtime) stop() (err error) {
	if r.conn != nil {
		err = r.conn.Close()
	}
	for i := len(r.services) - 1; i >= 0; i-- {
		err = errors.Join(err, r.services[i].Stop())
	}
	if r.m != nil {
		err = errors.Join(err, r.m.Close())
	}
	return err
}

// unpacked is an image, by what it is called in the table.
type unpacked struct {
	name   string
	layers []*engine.Layer
}

// images are those of the parts that are measured.
func (w *workloads) images(o options) (list []unpacked) {
	for _, i := range []struct {
		part string
		unpacked
	}{
		{"debian", unpacked{"Debian root", []*engine.Layer{w.Deb}}},
		{"many", unpacked{"many small files", []*engine.Layer{w.Busybox, w.Many}}},
		{"big", unpacked{"one big file", []*engine.Layer{w.Busybox, w.Big}}},
		{"deep", unpacked{"60 layers", w.Deep}},
	} {
		if has(o.parts, i.part) {
			list = append(list, i.unpacked)
		}
	}
	return list
}

// load puts the layers into containerd's content store, and the image that is run.
func (r *runtime) load(ctx context.Context, o options, w *workloads) error {
	if _, err := engine.Output(r.m.Command(ctx, "ctr", "images", "import", "--snapshotter", r.snapshotter, "--local", w.archive("busybox"))); err != nil {
		return err
	}
	ctx = namespaces.WithNamespace(ctx, "bench")
	for _, i := range w.images(o) {
		for _, l := range i.layers {
			if err := r.blob(ctx, l); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *runtime) blob(ctx context.Context, l *engine.Layer) (err error) {
	f, err := os.Open(l.Path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	desc := descriptor(l)
	return content.WriteBlob(ctx, r.content, desc.Digest.String(), f, desc,
		content.WithLabels(map[string]string{"containerd.io/gc.root": time.Now().Format(time.RFC3339)}))
}

func descriptor(l *engine.Layer) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.Digest(l.DiffID), Size: l.Size}
}

func (r *runtime) measure(ctx context.Context, o options, w *workloads, t *table) error {
	bench := namespaces.WithNamespace(ctx, "bench")
	for _, i := range w.images(o) {
		var chain []string
		if err := timeAs(t, "unpack, "+i.name, r.name, func() (err error) {
			chain, err = r.unpack(bench, i.layers)
			return err
		}); err != nil {
			return err
		}
		if err := timeAs(t, "remove, "+i.name, r.name, func() error { return r.remove(bench, chain) }); err != nil {
			return err
		}
		if err := r.settle(bench); err != nil {
			return err
		}
		if len(i.layers) < 4 || o.fs != "ext4" {
			continue
		}
		if err := timeAs(t, "unpack, "+i.name+", four at a time", r.name, func() (err error) {
			chain, err = r.unpackParallel(bench, i.layers)
			return err
		}); err != nil {
			return err
		}
		if err := errors.Join(r.remove(bench, chain), r.settle(bench)); err != nil {
			return err
		}
	}
	const times = 20
	if err := timeAs(t, fmt.Sprintf("prepare + commit + remove, %d times", times), r.name, func() error {
		for range times {
			if err := r.prepareAndCommit(bench); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	if r.name == nullName {
		return nil // there is nothing to run
	}
	return timeAs(t, "run", r.name, func() error {
		r.number++
		_, err := engine.Output(r.m.Command(ctx, "ctr", "run", "--rm", "--snapshotter", r.snapshotter, "--cgroup", r.m.Cgroup()+"/run",
			"docker.io/library/busybox:latest", fmt.Sprintf("run%d", r.number), "true"))
		return err
	})
}

// unpack does what containerd's unpacker does, and returns the names of the snapshots.
func (r *runtime) unpack(ctx context.Context, layers []*engine.Layer) (chain []string, err error) {
	chain = chainIDs(layers)
	parent := ""
	for i, l := range layers {
		mounts, err := r.prepare(ctx, chain[i], parent)
		if err != nil {
			return nil, err
		}
		if _, err := r.applier.Apply(ctx, descriptor(l), mounts); err != nil {
			return nil, err
		}
		if err := r.snapshots.Commit(ctx, chain[i], extract(chain[i]), root()); err != nil {
			return nil, err
		}
		parent = chain[i]
	}
	return chain, nil
}

// unpackParallel does what it does with max_concurrent_unpacks = 4: each layer is unpacked for itself, and gets its parent when it
// is committed.
func (r *runtime) unpackParallel(ctx context.Context, layers []*engine.Layer) (chain []string, err error) {
	chain = chainIDs(layers)
	var group errgroup.Group
	group.SetLimit(4)
	for i, l := range layers {
		mounts, err := r.prepare(ctx, chain[i], "")
		if err != nil {
			return nil, errors.Join(err, group.Wait())
		}
		group.Go(func() error {
			_, err := r.applier.Apply(ctx, descriptor(l), mounts)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for i, name := range chain {
		parent := ""
		if i > 0 {
			parent = chain[i-1]
		}
		if err := r.snapshots.Commit(ctx, name, extract(name), root(), snapshots.WithParent(parent)); err != nil {
			return nil, err
		}
	}
	return chain, nil
}

// chainIDs are what containerd calls an image's snapshots.
func chainIDs(layers []*engine.Layer) (chain []string) {
	diffs := make([]digest.Digest, len(layers))
	for i, l := range layers {
		diffs[i] = descriptor(l).Digest
		chain = append(chain, identity.ChainID(diffs[:i+1]).String())
	}
	return chain
}

// extract is what a snapshot is called until it has been unpacked.
func extract(name string) string { return "extract " + name }

// prepare makes the snapshot into which is unpacked what is to be called name.
func (r *runtime) prepare(ctx context.Context, name, parent string) ([]mount.Mount, error) {
	return r.snapshots.Prepare(ctx, extract(name), parent, root(), snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotRef: name}))
}

// settle has containerd collect what was removed, and waits until it is deleted.
func (r *runtime) settle(ctx context.Context) error {
	m := leasesproxy.NewLeaseManager(leasesapi.NewLeasesClient(r.conn))
	l, err := m.Create(ctx, leases.WithRandomID())
	if err != nil {
		return err
	}
	if err := m.Delete(ctx, l, leases.SynchronousDelete); err != nil || r.program == "" {
		return err
	}
	return awaitDeletions(func() *exec.Cmd {
		return r.m.Command(ctx, r.program, "--socket", strataSocket, "info", "--json")
	})
}

// root keeps a snapshot from containerd's garbage collection.
func root() snapshots.Opt {
	return snapshots.WithLabels(map[string]string{"containerd.io/gc.root": time.Now().Format(time.RFC3339)})
}

// remove removes snapshots, the last first. containerd deletes what they hold later.
func (r *runtime) remove(ctx context.Context, chain []string) error {
	for i := len(chain) - 1; i >= 0; i-- {
		if err := r.snapshots.Remove(ctx, chain[i]); err != nil {
			return err
		}
	}
	return nil
}

func (r *runtime) prepareAndCommit(ctx context.Context) error {
	if _, err := r.snapshots.Prepare(ctx, "active", "", root()); err != nil {
		return err
	}
	if err := r.snapshots.Commit(ctx, "committed", "active", root()); err != nil {
		return err
	}
	return r.snapshots.Remove(ctx, "committed")
}
