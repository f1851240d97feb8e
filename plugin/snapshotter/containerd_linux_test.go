package snapshotter

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/services/content/contentserver"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"gotest.tools/v3/assert"

	"strata/plugin"
)

// introspection says where a containerd keeps its blobs.
type introspection struct {
	introspectionapi.UnimplementedIntrospectionServer
	dir string
}

func (i introspection) Plugins(context.Context, *introspectionapi.PluginsRequest) (*introspectionapi.PluginsResponse, error) {
	return &introspectionapi.PluginsResponse{Plugins: []*introspectionapi.Plugin{{Exports: map[string]string{"root": i.dir}}}}, nil
}

// reads counts what is read over the socket.
type reads struct {
	content.Store
	n int
}

func (r *reads) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	r.n++
	return r.Store.ReaderAt(ctx, desc)
}

// TestOpenBlob reads a blob from containerd's directory if that can be seen, and else over its socket.
func TestOpenBlob(t *testing.T) {
	for _, tc := range []struct {
		what      string
		elsewhere bool
		requests  int
	}{{"file", false, 0}, {"socket", true, 5}} {
		t.Run(tc.what, func(t *testing.T) {
			dir := t.TempDir()
			s, err := local.NewLabeledStore(dir, &memory{})
			assert.NilError(t, err)
			counted := &reads{Store: s}
			text := make([]byte, 4<<20+123)
			_, err = rand.NewChaCha8([32]byte{}).Read(text)
			assert.NilError(t, err)
			desc := ocispec.Descriptor{Size: int64(len(text)), Digest: digest.FromBytes(text)}
			assert.NilError(t, content.WriteBlob(t.Context(), s, "x", bytes.NewReader(text), desc))

			socket := filepath.Join(t.TempDir(), "s")
			l, err := plugin.Listen(t.Context(), socket)
			assert.NilError(t, err)
			g := grpc.NewServer()
			contentapi.RegisterContentServer(g, contentserver.New(counted))
			if tc.elsewhere {
				dir = t.TempDir()
			}
			introspectionapi.RegisterIntrospectionServer(g, introspection{dir: "/host" + dir})
			go func() { _ = g.Serve(l) }()
			t.Cleanup(g.Stop)
			c, err := DialContainerd(socket, func(path string) (string, error) { return strings.TrimPrefix(path, "/host"), nil })
			assert.NilError(t, err)
			t.Cleanup(func() { assert.Check(t, c.Close()) })

			r, err := c.Open(t.Context(), desc)
			assert.NilError(t, err)
			got, err := io.ReadAll(r)
			assert.NilError(t, err)
			assert.NilError(t, r.Close())
			assert.Assert(t, bytes.Equal(got, text))
			assert.Assert(t, counted.n >= tc.requests && (counted.n > 0) == tc.elsewhere, "%d requests", counted.n)
			_, err = c.Open(t.Context(), ocispec.Descriptor{Digest: digest.FromString("nothing")})
			assert.Assert(t, errdefs.IsNotFound(err), "%v", err)
		})
	}
}
