package snapshotter

import (
	"bytes"
	"context"
	"io"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"gotest.tools/v3/assert"
)

// stalled are blobs that come to a stand, as those of a containerd that does not answer.
type stalled struct {
	blobs
	stands chan struct{} // closed when one has
}

func (s stalled) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	whole, err := s.blobs.Open(ctx, desc)
	return blobReader{io.MultiReader(whole, stall{ctx, s.stands}), whole}, err
}

type stall struct {
	ctx    context.Context //nolint:containedctx // it ends what waits in Read
	stands chan struct{}
}

func (s stall) Read([]byte) (int, error) {
	close(s.stands)
	<-s.ctx.Done()
	return 0, s.ctx.Err()
}

// TestRemoveBesideStalledBlob: a blob of which no more comes does not keep its snapshot from being removed.
func TestRemoveBesideStalledBlob(t *testing.T) {
	r := newRig(t, Options{})
	b := stalled{newBlobs(t), make(chan struct{})}
	desc := b.add(ocispec.MediaTypeImageLayer, bytes.TrimRight(layer(t, "file"), "\x00"))
	d := NewDiffer(r.Snapshotter, b)
	mounts, err := r.Prepare(t.Context(), "active", "")
	assert.NilError(t, err)
	applied := make(chan error, 1)
	go func() {
		_, err := d.Apply(t.Context(), desc, mounts)
		applied <- err
	}()
	<-b.stands
	start := time.Now()
	assert.NilError(t, r.Remove(t.Context(), "active"))
	assert.Check(t, time.Since(start) < 5*time.Second)
	err = <-applied
	assert.Check(t, errdefs.IsAborted(err), "%v", err)
}
