package snapshotter

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/backend/store"
)

// Differ is containerd's diff.Applier and diff.Comparer: it unpacks layers into active snapshots, and makes layers of what
// changed in them, without mounting anything where the backend can do so. Mounts that are not those of a Snapshotter of the
// same store are ErrNotImplemented; then containerd asks the next differ in its configuration. All methods may be called
// concurrently.
type Differ struct {
	snapshots *Snapshotter
	content   Content
}

// Content is containerd's content store, whose blobs belong to namespaces.
type Content interface {
	content.Store
	// Open opens a blob to be read once.
	Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error)
	// Namespaces lists them.
	Namespaces(ctx context.Context) ([]string, error)
	// Lease returns a context in which what is written is kept for a while, whether somebody refers to it or not.
	Lease(ctx context.Context) (context.Context, error)
}

var (
	_ diff.Applier  = (*Differ)(nil)
	_ diff.Comparer = (*Differ)(nil)
)

// NewDiffer makes a Differ for the snapshots of s, and blobs in c.
func NewDiffer(s *Snapshotter, c Content) *Differ { return &Differ{snapshots: s, content: c} }

// Apply unpacks the blob desc, compressed or not, into the active snapshot that mounts belong to, and describes the
// uncompressed tar. What it unpacked is durable when the snapshot has been committed. The options change nothing: they are
// about syncing sooner, and for programs that decrypt. ErrNotImplemented (another media type, others' mounts).
func (d *Differ) Apply(ctx context.Context, desc ocispec.Descriptor, mounts []mount.Mount, _ ...diff.ApplyOpt) (ocispec.Descriptor, error) {
	a, err := d.apply(ctx, desc, mounts)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("apply %s: %w", desc.Digest, err)
	}
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Size: a.Bytes, Digest: digest.Digest(a.Digest)}, nil
}

func (d *Differ) apply(ctx context.Context, desc ocispec.Descriptor, mounts []mount.Mount) (a store.Applied, err error) {
	if err := checkLayerType(ctx, desc.MediaType); err != nil {
		return a, err
	}
	l, i, err := d.find(ctx, mounts)
	if err != nil {
		return a, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	blob, err := d.open(ctx, desc)
	if err != nil {
		return a, err
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	tar, err := uncompress(blob)
	if err != nil {
		return a, err
	}
	defer func() { err = errors.Join(err, tar.Close()) }()
	return l.Unpack(store.WithInterrupt(ctx, cancel), i.Name, tar)
}

// open opens a blob. containerd before 2.0 does not tell a proxy plugin the namespace that it works in; then any namespace
// that has the blob will do, since its digest says what it is.
func (d *Differ) open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if _, ok := namespaces.Namespace(ctx); ok {
		return d.content.Open(ctx, desc)
	}
	list, err := d.content.Namespaces(ctx)
	if err != nil {
		return nil, err
	}
	for _, ns := range list {
		r, err := d.content.Open(namespaces.WithNamespace(ctx, ns), desc)
		if !errdefs.IsNotFound(err) {
			return r, err
		}
	}
	return nil, fmt.Errorf("in none of the namespaces %q: %w", list, errdefs.ErrNotFound)
}

// Compare makes a layer of the difference between the snapshots that the mounts belong to, writes it to containerd's
// content store and describes it. It takes the time that the changes take, not the whole snapshot, where the backend
// knows them and lower is upper's parent.
func (d *Differ) Compare(ctx context.Context, lower, upper []mount.Mount, opts ...diff.Opt) (ocispec.Descriptor, error) {
	desc, err := d.compare(ctx, lower, upper, opts)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("compare snapshots: %w", err)
	}
	return desc, nil
}

func (d *Differ) compare(ctx context.Context, lower, upper []mount.Mount, opts []diff.Opt) (desc ocispec.Descriptor, err error) {
	var config diff.Config
	for _, o := range opts {
		if err := o(&config); err != nil {
			return desc, err
		}
	}
	if _, ok := namespaces.Namespace(ctx); !ok {
		return desc, fmt.Errorf("containerd does not say in which namespace the layer is to be: %w", errdefs.ErrNotImplemented)
	}
	if config.SourceDateEpoch != nil || config.Compressor != nil {
		return desc, fmt.Errorf("a layer with times or a compression of somebody else's: %w", errdefs.ErrNotImplemented)
	}
	l, from, err := d.find(ctx, upper)
	if err != nil {
		return desc, fmt.Errorf("upper: %w", err)
	}
	parent := ""
	if len(lower) > 0 {
		_, i, err := d.find(ctx, lower)
		if err != nil {
			return desc, fmt.Errorf("lower: %w", err)
		}
		parent = i.Name
		if i.Parent == "" && i.Labels[labelKind] == kindView {
			parent = "" // a view of nothing
		}
	}
	// containerd does not tell a proxy plugin the lease under which it works, and would collect the blob at any time.
	if _, ok := leases.FromContext(ctx); !ok {
		if ctx, err = d.content.Lease(ctx); err != nil {
			return desc, err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := blobWriter{blobs: d.content, config: config}
	return w.write(ctx, func(tar io.Writer) error { return l.Diff(store.WithInterrupt(ctx, cancel), from.Name, parent, tar) })
}

// find returns the layer whose mounts these are: its ID is in one of their paths, and described again they are the
// same. ErrNotImplemented if there is none.
func (d *Differ) find(ctx context.Context, mounts []mount.Mount) (Layers, store.Info, error) {
	l, err := d.snapshots.o.Store(ctx)
	if err != nil {
		return nil, store.Info{}, err
	}
	for _, word := range pathWords(mounts) {
		i, err := l.StatID(ctx, word)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, i, err
		}
		for _, readOnly := range []bool{false, true} {
			own, err := l.Mounts(ctx, i.Name, store.MountOptions{ReadOnly: readOnly, Describe: true})
			if err != nil {
				return nil, i, err
			}
			if sameMounts(d.snapshots.abroad(own), mounts) {
				return l, i, nil
			}
		}
	}
	return nil, store.Info{}, fmt.Errorf("mounts that are not of this store: %w", errdefs.ErrNotImplemented)
}

// pathWords returns the names of which one is the layer's ID, if the mounts are ours.
func pathWords(mounts []mount.Mount) (words []string) {
	for _, m := range mounts {
		words = append(words, strings.Split(m.Source, "/")...)
		for _, o := range m.Options {
			key, value, _ := strings.Cut(o, "=")
			if key == "upperdir" || key == "lowerdir" {
				first, _, _ := strings.Cut(value, ":")
				words = append(words, strings.Split(first, "/")...)
			}
		}
	}
	return words
}

// sameMounts compares mounts. Clients add "ro" or "rw" to what they were given.
func sameMounts(a, b []mount.Mount) bool {
	mode := func(o string) bool { return o == "ro" || o == "rw" }
	return slices.EqualFunc(a, b, func(a, b mount.Mount) bool {
		x := slices.DeleteFunc(slices.Clone(a.Options), mode)
		y := slices.DeleteFunc(slices.Clone(b.Options), mode)
		return a.Type == b.Type && a.Source == b.Source && a.Target == b.Target && slices.Equal(x, y)
	})
}

// blobWriter writes a layer to a content store.
type blobWriter struct {
	blobs  content.Store
	config diff.Config
}

// write stores what tar writes, compressed as the media type says.
func (w blobWriter) write(ctx context.Context, tar func(io.Writer) error) (desc ocispec.Descriptor, err error) {
	if w.config.MediaType == "" {
		w.config.MediaType = ocispec.MediaTypeImageLayerGzip
	}
	kind, err := compressionOf(w.config.MediaType)
	if err != nil {
		return desc, err
	}
	ref, own := w.config.Reference, false
	if ref == "" {
		ref, own = "strata-"+rand.Text(), true
	}
	out, err := w.blobs.Writer(ctx, content.WithRef(ref), content.WithDescriptor(ocispec.Descriptor{MediaType: w.config.MediaType}))
	if err != nil {
		return desc, err
	}
	defer func() {
		errClose := out.Close()
		if err != nil && own {
			errClose = errors.Join(errClose, w.blobs.Abort(context.WithoutCancel(ctx), ref))
		}
		err = errors.Join(err, errClose)
	}()
	if !own {
		if err := out.Truncate(0); err != nil {
			return desc, err
		}
	}
	diffID, err := w.compress(out, kind, tar)
	if err != nil {
		return desc, err
	}
	return w.commit(ctx, out, diffID)
}

// compress writes the tar compressed and returns the digest of what it was before.
func (w blobWriter) compress(out io.Writer, kind compression.Compression, tar func(io.Writer) error) (digest.Digest, error) {
	sum := digest.SHA256.Digester()
	z, err := compression.CompressStream(out, kind)
	if err != nil {
		return "", err
	}
	err = tar(io.MultiWriter(z, sum.Hash()))
	return sum.Digest(), errors.Join(err, z.Close())
}

// commit ends the blob and labels it with the digest of the tar in it.
func (w blobWriter) commit(ctx context.Context, out content.Writer, diffID digest.Digest) (desc ocispec.Descriptor, err error) {
	all := map[string]string{labels.LabelUncompressed: diffID.String()}
	for k, v := range w.config.Labels {
		all[k] = v
	}
	blob := out.Digest()
	// Told which digest to expect, containerd's server sees that it has the blob and ends the writing, without entering it in
	// the lease of ctx: a collection could take it before anybody has it (services/content/contentserver, Write).
	if err := out.Commit(ctx, 0, "", content.WithLabels(all)); err != nil && !errdefs.IsAlreadyExists(err) {
		return desc, err
	}
	i, err := w.blobs.Info(ctx, blob)
	if err != nil {
		return desc, err
	}
	if i.Labels[labels.LabelUncompressed] == "" { // the blob was there
		if i.Labels == nil {
			i.Labels = map[string]string{}
		}
		i.Labels[labels.LabelUncompressed] = diffID.String()
		if _, err := w.blobs.Update(ctx, i, "labels."+labels.LabelUncompressed); err != nil {
			return desc, err
		}
	}
	return ocispec.Descriptor{MediaType: w.config.MediaType, Size: i.Size, Digest: blob}, nil
}

func compressionOf(mediaType string) (compression.Compression, error) {
	switch mediaType {
	case ocispec.MediaTypeImageLayer:
		return compression.Uncompressed, nil
	case ocispec.MediaTypeImageLayerGzip:
		return compression.Gzip, nil
	case ocispec.MediaTypeImageLayerZstd:
		return compression.Zstd, nil
	}
	return compression.Unknown, fmt.Errorf("media type %s: %w", mediaType, errdefs.ErrNotImplemented)
}
