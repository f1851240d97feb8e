package snapshotter

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/services/content/contentserver"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"gotest.tools/v3/assert"

	"strata/plugin"
)

// commits counts the blobs that a content store is told to end.
type commits struct {
	content.Store
	n *int
}

type countedWriter struct {
	content.Writer
	n *int
}

func (c commits) Writer(ctx context.Context, o ...content.WriterOpt) (content.Writer, error) {
	w, err := c.Store.Writer(ctx, o...)
	return countedWriter{w, c.n}, err
}

func (w countedWriter) Commit(ctx context.Context, size int64, expected digest.Digest, o ...content.Opt) error {
	*w.n++
	return w.Writer.Commit(ctx, size, expected, o...)
}

// TestCompareTwice has containerd's server end each blob, the second time, too, when it has it: that is when the blob gets into the
// lease of the request.
func TestCompareTwice(t *testing.T) {
	ended := 0
	socket := filepath.Join(t.TempDir(), "s")
	l, err := plugin.Listen(t.Context(), socket)
	assert.NilError(t, err)
	g := grpc.NewServer()
	contentapi.RegisterContentServer(g, contentserver.New(commits{newBlobs(t).Store, &ended}))
	go func() { _ = g.Serve(l) }()
	t.Cleanup(g.Stop)
	c, err := DialContainerd(socket, nil)
	assert.NilError(t, err)
	t.Cleanup(func() { assert.Check(t, c.Close()) })

	r := newRig(t, Options{})
	d := NewDiffer(r.Snapshotter, blobs{c, t})
	upper, err := r.Prepare(t.Context(), "active", "")
	assert.NilError(t, err)
	assert.NilError(t, os.WriteFile(filepath.Join(upper[0].Source, "new"), []byte("new"), 0o600))
	ctx := namespaces.WithNamespace(t.Context(), "first")
	first, err := d.Compare(ctx, nil, upper)
	assert.NilError(t, err)
	second, err := d.Compare(ctx, nil, upper)
	assert.NilError(t, err)
	assert.DeepEqual(t, first, second)
	assert.Equal(t, ended, 2)
}
