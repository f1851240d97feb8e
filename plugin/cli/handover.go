package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"strata/backend/store"
	"strata/plugin"
	"strata/plugin/snapshotter"
)

func (s *session) handover() *cobra.Command {
	var o handoverOptions
	var dockerRoot, socket, namespace string
	cmd := &cobra.Command{
		Use:   "handover",
		Short: "List Docker's images whose layers this store has, and offer them to containerd with --yes; exit code 3 if some cannot be",
		Long: `List Docker's images whose layers this store has, and offer them to containerd with --yes.

This is for the way from a Docker that takes storage plugins to one with containerd's image store (28, 29), or to
Kubernetes. The plugin has to serve containerd already (strata serve --snapshotter-socket). containerd gets the images'
names and descriptions, and snapshots that are other names of the layers; no layer is copied. Docker's record is only
read, and its layers stay until both have removed them. Containers are not handed over.

What is missing afterwards is the layers' tars, which containerd keeps for docker push, save and build. With
--content they are made, and take as much room as the layers; that can be done later, too.`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			ctx := namespaces.WithNamespace(cmd.Context(), namespace)
			if s.rest != "" {
				return usageError{errors.New("containerd takes the layers over from a plugin that is running, not from a store at rest")}
			}
			images, broken, err := dockerImages(dockerRoot)
			if err != nil {
				return err
			}
			c, err := snapshotter.DialContainerd(socket, nil)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, c.Close()) }()
			if _, err := c.Namespaces(ctx); err != nil {
				return fmt.Errorf("containerd on %s (--containerd-socket names another): %w", socket, err)
			}
			return s.with(ctx, false, func(t *target) error {
				h := &handover{handoverOptions: o, target: t, containerd: c}
				if err := h.all(ctx, images, broken); err != nil {
					return err
				}
				if err := s.print(emptyNotNull(h.done), func(w io.Writer) { printHandovers(w, h.done) }); err != nil {
					return err
				}
				if slices.ContainsFunc(h.done, func(i handedImage) bool { return i.Problem != "" }) {
					return errFindings
				}
				return nil
			})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.yes, "yes", false, "do it")
	f.BoolVar(&o.content, "content", false, "make the layers' tars, too")
	f.StringVar(&o.snapshotter, "snapshotter", "strata", "what containerd's configuration calls this store")
	f.StringVar(&dockerRoot, "docker-root", "/var/lib/docker", "data root of the Docker that has the images")
	f.StringVar(&socket, "containerd-socket", "/run/containerd/containerd.sock", "where containerd listens")
	f.StringVar(&namespace, "namespace", "moby", "containerd's namespace that gets the images; moby is Docker's own, k8s.io Kubernetes'")
	return cmd
}

type handoverOptions struct {
	yes, content bool
	snapshotter  string
}

// handedImage is an image as handover prints it.
type handedImage struct {
	ID      string   `json:"id"` // sha256:... of the configuration: what Docker called it
	Names   []string `json:"names"`
	Layers  int      `json:"layers"`
	Target  string   `json:"target,omitempty"` // sha256:... of the manifest: what containerd calls it
	Done    bool     `json:"done"`
	Problem string   `json:"problem,omitempty"`
}

// handover is one run of the command.
type handover struct {
	handoverOptions
	*target
	containerd *snapshotter.Containerd
	layers     map[string]store.Info
	tars       map[string]ocispec.Descriptor // of layers that are known already
	done       []handedImage
}

// all hands images over one after the other. What is wrong with one does not keep the others from it, unless it is wrong with
// all of them.
func (h *handover) all(ctx context.Context, images []dockerImage, broken map[digest.Digest]error) error {
	list, err := h.List(ctx)
	if err != nil {
		return err
	}
	h.layers, h.tars = make(map[string]store.Info, len(list)), map[string]ocispec.Descriptor{}
	for _, l := range list {
		h.layers[l.Name] = l
	}
	for _, i := range images {
		one := handedImage{ID: i.ID.String(), Names: emptyNotNull(i.Names), Layers: len(i.Layers)}
		err := h.image(ctx, i, &one)
		if errdefs.IsUnavailable(err) || ctx.Err() != nil {
			return err
		}
		if err != nil {
			one.Problem = plugin.Plain(err.Error())
		}
		h.done = append(h.done, one)
	}
	for _, id := range slices.Sorted(maps.Keys(broken)) {
		h.done = append(h.done, handedImage{ID: id.String(), Names: []string{}, Problem: plugin.Plain(broken[id].Error())})
	}
	return nil
}

// image looks at one image and, if told to, hands it over.
func (h *handover) image(ctx context.Context, i dockerImage, one *handedImage) error {
	if err := h.refuse(i); err != nil {
		return err
	}
	manifest, target, err := h.describe(ctx, i)
	if err != nil {
		return err
	}
	one.Target = target.Digest.String()
	missing, err := h.missingNames(ctx, i, target)
	if err != nil || !h.yes {
		return err
	}
	err = h.write(ctx, i, manifest, target, missing)
	one.Done = err == nil
	return err
}

// refuse says why an image cannot be handed over.
func (h *handover) refuse(i dockerImage) error {
	if len(i.Layers) == 0 {
		return errors.New("it has no layers")
	}
	for _, l := range i.Layers {
		known, ok := h.layers[l.Name]
		if !ok {
			return fmt.Errorf("layer %s is not in this store", l.Name)
		}
		if a := known.Applied; a != nil && a.Digest != l.Diff.String() {
			return fmt.Errorf("layer %s was filled from %s, Docker takes it for %s", l.Name, a.Digest, l.Diff)
		}
		if known.IDMap != nil {
			return fmt.Errorf("layer %s belongs to a Docker with user namespaces, whose owners containerd maps by itself", l.Name)
		}
	}
	return nil
}

// write makes an image's snapshots, description and names in containerd, in this order: until it has a name, what is written
// belongs to a lease. All of it may be there already.
func (h *handover) write(ctx context.Context, i dockerImage, m ocispec.Manifest, target ocispec.Descriptor, names []string) (err error) {
	if ctx, err = h.containerd.Lease(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.containerd.Release(context.WithoutCancel(ctx))) }()
	for n, l := range i.Layers {
		if err := h.layer(ctx, i, n); err != nil {
			return fmt.Errorf("layer %s: %w", l.Name, err)
		}
	}
	if err := h.blob(ctx, i.Config, m.Config, map[string]string{
		"containerd.io/gc.ref.snapshot." + h.snapshotter: i.Layers[len(i.Layers)-1].Chain.String(),
	}); err != nil {
		return err
	}
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	refs := map[string]string{"containerd.io/gc.ref.content.config": m.Config.Digest.String()}
	for n, l := range m.Layers {
		refs[fmt.Sprintf("containerd.io/gc.ref.content.l.%d", n)] = l.Digest.String()
	}
	if err := h.blob(ctx, text, target, refs); err != nil {
		return err
	}
	for _, name := range names {
		if err := h.containerd.CreateImage(ctx, name, target); err != nil {
			return err
		}
	}
	return nil
}

// describe makes an image's manifest: of its layers as uncompressed tars, because those digests are known, and the same
// whether containerd has the tars or not.
func (h *handover) describe(ctx context.Context, i dockerImage) (m ocispec.Manifest, target ocispec.Descriptor, err error) {
	m = ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: i.ID, Size: int64(len(i.Config))},
	}
	for _, l := range i.Layers {
		tar, err := h.tarOf(ctx, l)
		if err != nil {
			return m, target, err
		}
		m.Layers = append(m.Layers, tar)
	}
	text, err := json.Marshal(m)
	return m, ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(text), Size: int64(len(text))}, err
}

// tarOf describes a layer's tar. The store knows it if it filled the layer from it; else, of one that was built, it is made once to
// see how long it is, and that it is still the one.
func (h *handover) tarOf(ctx context.Context, l imageLayer) (ocispec.Descriptor, error) {
	tar, ok := h.tars[l.Name]
	if ok {
		return tar, nil
	}
	tar = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: l.Diff}
	known := h.layers[l.Name]
	if known.Applied != nil {
		tar.Size = known.Applied.Bytes
	} else {
		sum := digest.SHA256.Digester()
		count := writerFunc(func(b []byte) (int, error) {
			tar.Size += int64(len(b))
			return sum.Hash().Write(b)
		})
		if err := h.Diff(ctx, l.Name, known.Parent, count); err != nil {
			return tar, err
		}
		if sum.Digest() != l.Diff {
			return tar, fmt.Errorf("layer %s gives the tar %s, Docker takes it for %s: %w", l.Name, sum.Digest(), l.Diff, errdefs.ErrDataLoss)
		}
	}
	h.tars[l.Name] = tar
	return tar, nil
}

// missingNames returns those of an image's names that containerd does not have yet. One without a tag gets the name that
// Docker gives to such images.
func (h *handover) missingNames(ctx context.Context, i dockerImage, target ocispec.Descriptor) (missing []string, err error) {
	names := i.Names
	if len(names) == 0 {
		names = []string{"moby-dangling@" + target.Digest.String()} // moby daemon/containerd/image.go, danglingImageName
	}
	var other []string
	for _, name := range names {
		switch is, err := h.containerd.Image(ctx, name); {
		case errdefs.IsNotFound(err):
			missing = append(missing, name)
		case err != nil:
			return nil, err
		case is != target.Digest:
			other = append(other, name)
		}
	}
	if len(other) > 0 {
		return nil, fmt.Errorf("%s is another image in containerd: remove or rename it there", strings.Join(other, " "))
	}
	return missing, nil
}

// layer makes an image's nth layer a snapshot, and its tar if that was asked for.
func (h *handover) layer(ctx context.Context, i dockerImage, n int) error {
	l, parent := i.Layers[n], ""
	if n > 0 {
		parent = i.Layers[n-1].Chain.String()
	}
	sn := h.containerd.Snapshots(h.snapshotter)
	key := "handover-" + l.Chain.String()
	_, err := sn.Prepare(ctx, key, parent, snapshots.WithLabels(map[string]string{
		snapshots.LabelSnapshotRef: l.Chain.String(), snapshotter.LabelLayer: l.Name,
	}))
	switch {
	case err == nil:
		err = fmt.Errorf("containerd's snapshotter %s does not take layers over: it is not Strata, or an older one: %w", h.snapshotter, errdefs.ErrUnavailable)
		return errors.Join(err, sn.Remove(ctx, key))
	case !errdefs.IsAlreadyExists(err):
		return err
	}
	if !h.content {
		return nil
	}
	tar, err := h.tarOf(ctx, l)
	if err != nil {
		return err
	}
	return h.writeTar(ctx, l, tar)
}

// writeTar writes a layer's tar to containerd's content store.
func (h *handover) writeTar(ctx context.Context, l imageLayer, tar ocispec.Descriptor) (err error) {
	ref := "handover-" + tar.Digest.String()
	if err := h.containerd.Abort(ctx, ref); err != nil && !errdefs.IsNotFound(err) { // what is left of one that was cut off
		return err
	}
	w, err := content.OpenWriter(ctx, h.containerd, content.WithRef(ref), content.WithDescriptor(tar))
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if err := h.Diff(ctx, l.Name, h.layers[l.Name].Parent, w); err != nil {
		return err
	}
	if err := w.Commit(ctx, tar.Size, tar.Digest); err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("its tar is not the one that Docker knows: %w", err)
	}
	return nil
}

// blob writes a blob, and what it refers to.
func (h *handover) blob(ctx context.Context, text []byte, desc ocispec.Descriptor, refs map[string]string) error {
	err := content.WriteBlob(ctx, h.containerd, "handover-"+desc.Digest.String(), bytes.NewReader(text), desc, content.WithLabels(refs))
	if err != nil {
		return err
	}
	fields := make([]string, 0, len(refs)) // it may have been there with others
	for key := range refs {
		fields = append(fields, "labels."+key)
	}
	_, err = h.containerd.Update(ctx, content.Info{Digest: desc.Digest, Labels: refs}, fields...)
	return err
}

func printHandovers(w io.Writer, list []handedImage) {
	if len(list) == 0 {
		row(w, "no images found")
		return
	}
	row(w, "IMAGE", "NAMES", "LAYERS", "HANDED OVER", "PROBLEM")
	for _, i := range list {
		row(w, short(strings.TrimPrefix(i.ID, "sha256:")), orDash(strings.Join(i.Names, " ")), i.Layers, yesNo(i.Done), orDash(i.Problem))
	}
}
