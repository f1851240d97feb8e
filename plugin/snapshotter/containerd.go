package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"sync"
	"time"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/containerd/containerd/v2/core/leases"
	leasesproxy "github.com/containerd/containerd/v2/core/leases/proxy"
	"github.com/containerd/containerd/v2/core/snapshots"
	snapshotsproxy "github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/klauspost/readahead"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"strata/backend/regular"
)

// Containerd is a connection to a containerd, made when it is first used.
type Containerd struct {
	content.Store
	conn *grpc.ClientConn
	// blobs returns the directory of the content store, "" if containerd does not say.
	blobs func() string
}

// DialContainerd prepares a connection to the containerd on a unix socket. It does not wait for it. here turns one of containerd's paths
// into one of ours; nil leaves it as it is.
func DialContainerd(socket string, here func(path string) (string, error)) (*Containerd, error) {
	conn, err := grpc.NewClient("unix://"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(defaults.DefaultMaxRecvMsgSize), grpc.MaxCallSendMsgSize(defaults.DefaultMaxSendMsgSize)))
	if err != nil {
		return nil, fmt.Errorf("connect to containerd on %s: %w", socket, err)
	}
	c := &Containerd{Store: proxy.NewContentStore(conn), conn: conn}
	c.blobs = sync.OnceValue(func() string { return c.blobDir(here) })
	return c, nil
}

// blobDir asks containerd where it keeps blobs (plugins/content/local).
func (c *Containerd) blobDir(here func(path string) (string, error)) string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	root := ""
	resp, err := introspectionapi.NewIntrospectionClient(c.conn).Plugins(ctx, &introspectionapi.PluginsRequest{Filters: []string{"id==content"}})
	for _, p := range resp.GetPlugins() {
		if dir := p.GetExports()["root"]; dir != "" {
			root = filepath.Join(dir, "blobs")
		}
	}
	if err == nil && root != "" && here != nil {
		root, err = here(root)
	}
	if err != nil || root == "" {
		log.G(ctx).WithError(err).Info("containerd's blobs cannot be seen, so they are read over its socket, which is slower")
		return ""
	}
	return root
}

// Open opens a blob: the file that it is, if we can see that. Else it is read over the connection, where every piece is a request
// and copied three times: in large pieces, ahead of time, and of the context's namespace. A blob never changes once it is there.
func (c *Containerd) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	const buffers, size = 4, 1 << 20
	if dir := c.blobs(); dir != "" && desc.Digest.Validate() == nil {
		f, err := regular.Open(filepath.Join(dir, desc.Digest.Algorithm().String(), desc.Digest.Encoded()), math.MaxInt64)
		if err == nil {
			return f, nil
		}
	}
	blob, err := c.ReaderAt(ctx, desc)
	if err != nil {
		return nil, err
	}
	ahead, err := readahead.NewReadCloserSize(blobReader{content.NewReader(blob), blob}, buffers, size)
	if err != nil {
		return nil, errors.Join(err, blob.Close())
	}
	return ahead, nil
}

// blobReader reads a blob from its beginning.
type blobReader struct {
	io.Reader
	io.Closer
}

// Namespaces lists containerd's namespaces.
func (c *Containerd) Namespaces(ctx context.Context) ([]string, error) {
	resp, err := namespacesapi.NewNamespacesClient(c.conn).List(ctx, &namespacesapi.ListNamespacesRequest{})
	if err != nil {
		return nil, fmt.Errorf("list namespaces: %w", errgrpc.ToNative(err))
	}
	var names []string
	for _, ns := range resp.GetNamespaces() {
		names = append(names, ns.GetName())
	}
	return names, nil
}

// leaseTime is how long a new blob is kept for its client to refer to it, which takes seconds.
const leaseTime = time.Hour

// Lease makes a lease that ends by itself.
func (c *Containerd) Lease(ctx context.Context) (context.Context, error) {
	m := leasesproxy.NewLeaseManager(leasesapi.NewLeasesClient(c.conn))
	l, err := m.Create(ctx, leases.WithRandomID(), leases.WithExpiration(leaseTime))
	if err != nil {
		return nil, fmt.Errorf("make lease: %w", err)
	}
	return leases.WithLease(ctx, l.ID), nil
}

// Release ends a lease that Lease made, so that containerd collects what has got no name.
func (c *Containerd) Release(ctx context.Context) error {
	id, _ := leases.FromContext(ctx)
	err := leasesproxy.NewLeaseManager(leasesapi.NewLeasesClient(c.conn)).Delete(ctx, leases.Lease{ID: id})
	if err != nil {
		return fmt.Errorf("end lease %s: %w", id, err)
	}
	return nil
}

// Snapshots returns one of containerd's snapshotters, as its clients see it.
func (c *Containerd) Snapshots(name string) snapshots.Snapshotter {
	return snapshotsproxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(c.conn), name)
}

// Image returns what an image's name stands for. ErrNotFound.
func (c *Containerd) Image(ctx context.Context, name string) (digest.Digest, error) {
	resp, err := imagesapi.NewImagesClient(c.conn).Get(ctx, &imagesapi.GetImageRequest{Name: name})
	if err != nil {
		return "", fmt.Errorf("image %s: %w", name, errgrpc.ToNative(err))
	}
	return digest.Digest(resp.GetImage().GetTarget().GetDigest()), nil
}

// CreateImage gives content a name. ErrAlreadyExists.
func (c *Containerd) CreateImage(ctx context.Context, name string, target ocispec.Descriptor) error {
	_, err := imagesapi.NewImagesClient(c.conn).Create(ctx, &imagesapi.CreateImageRequest{Image: &imagesapi.Image{
		Name:   name,
		Target: &types.Descriptor{MediaType: target.MediaType, Digest: target.Digest.String(), Size: target.Size},
	}})
	if err != nil {
		return fmt.Errorf("create image %s: %w", name, errgrpc.ToNative(err))
	}
	return nil
}

// Close ends the connection.
func (c *Containerd) Close() error {
	if err := c.conn.Close(); err != nil {
		return fmt.Errorf("disconnect from containerd: %w", err)
	}
	return nil
}
