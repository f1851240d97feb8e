package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"sync"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/services/content/contentserver"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

// blobs are containerd's content store, from which the program reads the tars of layers, and to which it writes them.
type blobs struct {
	content.Store
	dir    string
	server *grpc.Server
}

// serveBlobs makes a store in a directory and serves it on a socket, until that is closed.
func serveBlobs(ctx context.Context, dir, socket string) (_ *blobs, err error) {
	b := &blobs{dir: dir, server: grpc.NewServer()}
	if b.Store, err = local.NewLabeledStore(b.dir, &labels{of: map[digest.Digest]map[string]string{}}); err != nil {
		return nil, err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	contentapi.RegisterContentServer(b.server, contentserver.New(b.Store))
	leasesapi.RegisterLeasesServer(b.server, leases{})
	go func() { _ = b.server.Serve(l) }() // it ends with the run
	return b, nil
}

// close ends the serving.
func (b *blobs) close() { b.server.Stop() }

// add takes a tar, compressed or not.
func (b *blobs) add(ctx context.Context, text []byte, compress bool) (ocispec.Descriptor, error) {
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer}
	if compress {
		var small bytes.Buffer
		w := gzip.NewWriter(&small)
		_, err := w.Write(text)
		if err := errors.Join(err, w.Close()); err != nil {
			return d, err
		}
		text, d.MediaType = small.Bytes(), ocispec.MediaTypeImageLayerGzip
	}
	d.Size, d.Digest = int64(len(text)), digest.FromBytes(text)
	if err := content.WriteBlob(ctx, b.Store, d.Digest.String(), bytes.NewReader(text), d); err != nil {
		return d, fmt.Errorf("store a blob: %w", err)
	}
	return d, nil
}

// drop removes a blob. One that is gone is no error.
func (b *blobs) drop(d digest.Digest) {
	_ = os.Remove(filepath.Join(b.dir, "blobs", d.Algorithm().String(), d.Encoded())) // others may have it and drop it, too
}

// leases keep nothing: nobody collects blobs here.
type leases struct {
	leasesapi.UnimplementedLeasesServer
}

// Create implements leasesapi.LeasesServer.
func (leases) Create(context.Context, *leasesapi.CreateRequest) (*leasesapi.CreateResponse, error) {
	return &leasesapi.CreateResponse{Lease: &leasesapi.Lease{ID: namespace}}, nil
}

// Delete implements leasesapi.LeasesServer.
func (leases) Delete(context.Context, *leasesapi.DeleteRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, nil
}

// labels are those of blobs. Safe for concurrent use.
type labels struct {
	mu sync.Mutex
	of map[digest.Digest]map[string]string
}

// Get implements local.LabelStore.
func (l *labels) Get(d digest.Digest) (map[string]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.of[d]), nil
}

// Set implements local.LabelStore.
func (l *labels) Set(d digest.Digest, labels map[string]string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.of[d] = labels
	return nil
}

// Update implements local.LabelStore.
func (l *labels) Update(d digest.Digest, labels map[string]string) (map[string]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := maps.Clone(l.of[d])
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, labels)
	l.of[d] = all
	return maps.Clone(all), nil
}
