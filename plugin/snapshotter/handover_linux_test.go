package snapshotter

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/store"
)

// docker makes a layer as Docker does, with a file of its own name.
func (r *rig) docker(name, parent string) {
	r.t.Helper()
	assert.NilError(r.t, r.store.Create(r.t.Context(), name, parent, store.CreateOptions{}))
	_, err := r.store.Apply(r.t.Context(), name, bytes.NewReader(layer(r.t, name)))
	assert.NilError(r.t, err)
}

func handOver(layer, ref string) snapshots.Opt {
	return snapshots.WithLabels(map[string]string{LabelLayer: layer, snapshots.LabelSnapshotRef: ref})
}

// TestHandOver lets containerd's own record of snapshots take Docker's layers over.
func TestHandOver(t *testing.T) {
	r := newRig(t, Options{})
	r.docker("lower", "")
	r.docker("upper", "lower")
	dir := t.TempDir()
	db, err := bolt.Open(filepath.Join(dir, "meta.db"), 0o600, nil)
	assert.NilError(t, err)
	t.Cleanup(func() { assert.Check(t, db.Close()) })
	blobs, err := local.NewStore(dir)
	assert.NilError(t, err)
	meta := metadata.NewDB(db, blobs, map[string]snapshots.Snapshotter{"strata": r.Snapshotter})
	ctx := namespaces.WithNamespace(t.Context(), "moby")
	assert.NilError(t, meta.Init(ctx))
	sn := meta.Snapshotter("strata")
	for range 2 { // the second time everything is there
		_, err = sn.Prepare(ctx, "key of lower", "", handOver("lower", "sha256:lower"))
		assert.Assert(t, errdefs.IsAlreadyExists(err), "%v", err)
		_, err = sn.Prepare(ctx, "key of upper", "sha256:lower", handOver("upper", "sha256:upper"))
		assert.Assert(t, errdefs.IsAlreadyExists(err), "%v", err)
	}
	assert.Equal(t, len(r.walk()), 2)
	// Another namespace shares what is there.
	_, err = sn.Prepare(namespaces.WithNamespace(t.Context(), "other"), "key", "", handOver("lower", "sha256:lower"))
	assert.Assert(t, errdefs.IsAlreadyExists(err), "%v", err)
	assert.Equal(t, len(r.walk()), 2)

	info, err := sn.Stat(ctx, "sha256:upper")
	assert.NilError(t, err)
	assert.Equal(t, info.Kind, snapshots.KindCommitted)
	assert.Equal(t, info.Parent, "sha256:lower")
	usage, err := sn.Usage(ctx, "sha256:upper")
	assert.NilError(t, err)
	want, err := r.store.Usage(t.Context(), "upper")
	assert.NilError(t, err)
	assert.Equal(t, backend.Usage{Size: usage.Size, Inodes: usage.Inodes}, want)

	mounts, err := sn.Prepare(ctx, "container", "sha256:upper")
	assert.NilError(t, err)
	for _, name := range []string{"lower", "upper"} {
		text, err := os.ReadFile(filepath.Join(mounts[0].Source, name))
		assert.NilError(t, err)
		assert.Equal(t, string(text), name)
	}
	// Docker may forget its layers, and containerd its snapshots, in any order.
	assert.NilError(t, r.store.Discard(t.Context(), "upper"))
	assert.NilError(t, r.store.Discard(t.Context(), "lower"))
	_, err = sn.View(ctx, "view", "sha256:upper")
	assert.NilError(t, err)
	for _, name := range []string{"view", "container", "sha256:upper", "sha256:lower"} {
		assert.NilError(t, sn.Remove(ctx, name))
	}
	assert.NilError(t, meta.Snapshotter("strata").Remove(namespaces.WithNamespace(t.Context(), "other"), "sha256:lower"))
	_, err = meta.GarbageCollect(ctx)
	assert.NilError(t, err)
	assert.NilError(t, r.store.Settle(t.Context()))
	left, err := r.store.List(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, len(left), 0, "%v", left)
}

func TestHandOverErrors(t *testing.T) {
	r := newRig(t, Options{})
	r.docker("lower", "")
	r.docker("upper", "lower")
	r.commit("base")
	assert.NilError(t, r.store.Create(t.Context(), "mapped", "", store.CreateOptions{IDMap: &backend.IDMap{
		UIDs: []backend.IDRange{{Host: 100000, Size: 65536}}, GIDs: []backend.IDRange{{Host: 100000, Size: 65536}},
	}}))
	for _, tc := range []struct {
		what, parent string
		opt          snapshots.Opt
		is           func(error) bool
	}{
		{"unknown layer", "", handOver("nothing", "ref"), errdefs.IsNotFound},
		{"no reference", "", snapshots.WithLabels(map[string]string{LabelLayer: "lower"}), errdefs.IsInvalidArgument},
		{"containerd's own", "", handOver(Prefix+"base", "ref"), errdefs.IsInvalidArgument},
		{"no parent", "", handOver("upper", "ref"), errdefs.IsInvalidArgument},
		{"a parent too many", "base", handOver("lower", "ref"), errdefs.IsInvalidArgument},
		{"unknown parent", "nothing", handOver("upper", "ref"), errdefs.IsNotFound},
		{"mapped owners", "", handOver("mapped", "ref"), errdefs.IsInvalidArgument},
	} {
		_, err := r.Prepare(t.Context(), "key", tc.parent, tc.opt)
		assert.Check(t, tc.is(err), "%s: %v", tc.what, err)
	}
	assert.DeepEqual(t, r.walk(), []string{"base"})
}
