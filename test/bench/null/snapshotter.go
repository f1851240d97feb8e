package null

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Snapshotter is the same for containerd, a snapshotter and a differ: it remembers the names of snapshots, and of every layer it
// is given nothing but the digest. Nothing can run on it.
type Snapshotter struct {
	Blobs string // containerd's directory of blobs

	mu  sync.Mutex
	all map[string]snapshots.Info
}

var (
	_ snapshots.Snapshotter = (*Snapshotter)(nil)
	_ diff.Applier          = (*Snapshotter)(nil)
	_ diff.Comparer         = (*Snapshotter)(nil)
)

// Stat returns what is remembered of a snapshot.
func (s *Snapshotter) Stat(_ context.Context, key string) (snapshots.Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.all[key]
	if !ok {
		return i, fmt.Errorf("snapshot %q: %w", key, errdefs.ErrNotFound)
	}
	return i, nil
}

// Update replaces what is remembered.
func (s *Snapshotter) Update(_ context.Context, i snapshots.Info, _ ...string) (snapshots.Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all[i.Name] = i
	return i, nil
}

// Usage is nothing.
func (s *Snapshotter) Usage(context.Context, string) (snapshots.Usage, error) {
	return snapshots.Usage{}, nil
}

// Mounts leads to an empty directory that does not exist.
func (s *Snapshotter) Mounts(context.Context, string) ([]mount.Mount, error) {
	return []mount.Mount{{Type: "bind", Source: "/nowhere", Options: []string{"rbind", "rw"}}}, nil
}

// Prepare remembers an active snapshot.
func (s *Snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	if err := s.add(snapshots.Info{Kind: snapshots.KindActive, Name: key, Parent: parent}, opts); err != nil {
		return nil, err
	}
	return s.Mounts(ctx, key)
}

// View remembers a view.
func (s *Snapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	if err := s.add(snapshots.Info{Kind: snapshots.KindView, Name: key, Parent: parent}, opts); err != nil {
		return nil, err
	}
	return s.Mounts(ctx, key)
}

func (s *Snapshotter) add(i snapshots.Info, opts []snapshots.Opt) error {
	for _, o := range opts {
		if err := o(&i); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, there := s.all[i.Name]; there {
		return fmt.Errorf("snapshot %q: %w", i.Name, errdefs.ErrAlreadyExists)
	}
	if s.all == nil {
		s.all = map[string]snapshots.Info{}
	}
	s.all[i.Name] = i
	return nil
}

// Commit gives a snapshot its other name.
func (s *Snapshotter) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	i, err := s.Stat(ctx, key)
	if err != nil {
		return err
	}
	if err := s.add(snapshots.Info{Kind: snapshots.KindCommitted, Name: name, Parent: i.Parent}, opts); err != nil {
		return err
	}
	return s.Remove(ctx, key)
}

// Remove forgets a snapshot.
func (s *Snapshotter) Remove(_ context.Context, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, key)
	return nil
}

// Walk shows all snapshots, whatever the filters say.
func (s *Snapshotter) Walk(ctx context.Context, fn snapshots.WalkFunc, _ ...string) error {
	s.mu.Lock()
	list := slices.Collect(maps.Values(s.all))
	s.mu.Unlock()
	for _, i := range list {
		if err := fn(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

// Close does nothing.
func (s *Snapshotter) Close() error { return nil }

// Apply digests a blob, which has to be an uncompressed tar.
func (s *Snapshotter) Apply(_ context.Context, desc ocispec.Descriptor, _ []mount.Mount, _ ...diff.ApplyOpt) (ocispec.Descriptor, error) {
	f, err := os.Open(filepath.Join(s.Blobs, desc.Digest.Algorithm().String(), desc.Digest.Encoded()))
	if err != nil {
		return desc, err
	}
	sum := sha256.New()
	n, err := io.CopyBuffer(struct{ io.Writer }{sum}, struct{ io.Reader }{f}, make([]byte, 1<<20))
	return ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageLayer, Size: n, Digest: digest.NewDigest(digest.SHA256, sum),
	}, errors.Join(err, f.Close())
}

// Compare is not in a snapshotter that stores nothing.
func (s *Snapshotter) Compare(context.Context, []mount.Mount, []mount.Mount, ...diff.Opt) (ocispec.Descriptor, error) {
	return ocispec.Descriptor{}, errdefs.ErrNotImplemented
}
