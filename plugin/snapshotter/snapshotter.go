// Package snapshotter serves a store's layers as the snapshots of containerd: its snapshots API, version 1
// (api/services/snapshots/v1 in containerd's source), and its diff API, both as proxy plugins. It translates and remembers
// nothing; everything is the store's.
//
// # Snapshots and layers
//
// A snapshot is a layer, called by the snapshot's name or key with "containerd/" before it, so that no name of Docker's
// is ever one of containerd's. An active snapshot is a layer that is not sealed, and Commit gives it its new name. A view
// is a link to the layer that it shows: it takes no data and no time. containerd itself keeps its namespaces apart, by
// the names that it gives to snapshots ("NAMESPACE/NUMBER/KEY").
//
// containerd mounts snapshots itself, so the paths and options that it gets have to mean the same to it as to us.
//
// # Labels
//
// Besides containerd's, a layer has labels that begin with "strata/", which containerd neither sees nor changes: the
// snapshot's kind, and when its labels were last changed. A label without a value is none, and one has 4096 bytes at most,
// as in containerd; all of a snapshot's have 128 KiB. These of containerd's mean something:
//
//	containerd.io/snapshot/max-size                 bytes that an active snapshot may grow to
//	containerd.io/snapshot/uidmapping, gidmapping   its owners, as CONTAINER:HOST:SIZE, separated by commas
//	containerd.io/snapshot/strata.layer             a layer of Docker's to hand over ([LabelLayer])
package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/containerd/errdefs"

	"strata/backend"
	"strata/backend/store"
)

// Prefix begins the store's names of containerd's snapshots.
const Prefix = "containerd/"

// Labels of ours, and the values of the first.
const (
	labelPrefix  = "strata/"
	labelKind    = labelPrefix + "kind"
	labelUpdated = labelPrefix + "updated" // RFC 3339; missing if that is when the snapshot was made
	labelParent  = labelPrefix + "parent"  // the parent's name, of a layer of Docker's that was handed over

	kindActive    = "active"
	kindView      = "view"
	kindCommitted = "committed"
)

// Layers is what a Snapshotter wants of a *store.Store.
type Layers interface {
	Create(ctx context.Context, name, parent string, o store.CreateOptions) error
	Link(ctx context.Context, name, target string, labels map[string]string) error
	Commit(ctx context.Context, name, as string, o store.CommitOptions) error
	Remove(ctx context.Context, name string) error
	Mounts(ctx context.Context, name string, o store.MountOptions) ([]backend.Mount, error)
	UpdateLabels(ctx context.Context, name string, change func(labels map[string]string) error) (store.Info, error)
	Stat(ctx context.Context, name string) (store.Info, error)
	StatID(ctx context.Context, id string) (store.Info, error)
	List(ctx context.Context) ([]store.Info, error)
	Usage(ctx context.Context, name string) (backend.Usage, error)
	Unpack(ctx context.Context, name string, r io.Reader) (store.Applied, error)
	Diff(ctx context.Context, name, parent string, w io.Writer) error
}

var _ Layers = (*store.Store)(nil)

// Options connect a Snapshotter to the program that it is part of.
type Options struct {
	// Store returns the open store, opening it if need be. It is called for every request.
	Store func(ctx context.Context) (Layers, error)
	// HostPath turns a path of ours into one of containerd's. nil leaves it as it is.
	HostPath func(path string) string
	// HostText turns the paths in a text for people into containerd's. nil leaves them as they are.
	HostText func(text string) string
}

// Snapshotter is containerd's snapshots.Snapshotter and snapshots.Cleaner. All methods may be called concurrently.
type Snapshotter struct{ o Options }

var (
	_ snapshots.Snapshotter = (*Snapshotter)(nil)
	_ snapshots.Cleaner     = (*Snapshotter)(nil)
)

// New makes a Snapshotter. It does nothing until it is called.
func New(o Options) *Snapshotter {
	if o.HostPath == nil {
		o.HostPath = func(path string) string { return path }
	}
	if o.HostText == nil {
		o.HostText = func(text string) string { return text }
	}
	return &Snapshotter{o}
}

// Prepare makes an active snapshot and tells how to mount it. ErrAlreadyExists, ErrNotFound (parent),
// ErrInvalidArgument (the parent is not committed; a label), ErrNotImplemented (a limit).
func (s *Snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	mounts, err := s.create(ctx, kindActive, key, parent, opts)
	if err != nil {
		return nil, fmt.Errorf("prepare snapshot %q: %w", key, err)
	}
	return mounts, nil
}

// View makes a snapshot that shows parent and cannot be written to. Errors as for Prepare.
func (s *Snapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	mounts, err := s.create(ctx, kindView, key, parent, opts)
	if err != nil {
		return nil, fmt.Errorf("view snapshot %q: %w", key, err)
	}
	return mounts, nil
}

func (s *Snapshotter) create(ctx context.Context, kind, key, parent string, opts []snapshots.Opt) ([]mount.Mount, error) {
	l, err := s.o.Store(ctx)
	if err != nil {
		return nil, err
	}
	info, err := apply(opts)
	if err != nil {
		return nil, err
	}
	o, err := createOptions(info.Labels)
	if err != nil {
		return nil, err
	}
	o.Labels[labelKind] = kind
	_, handed := o.Labels[LabelLayer]
	below := ""
	if parent != "" {
		below = Prefix + parent
		p, err := l.Stat(ctx, below)
		if err != nil {
			return nil, fmt.Errorf("parent %q: %w", parent, err)
		}
		if p.Labels[labelKind] != kindCommitted {
			return nil, fmt.Errorf("parent %q is not committed: %w", parent, errdefs.ErrInvalidArgument)
		}
	}
	switch {
	case handed && kind == kindActive:
		err = s.handOver(ctx, l, key, parent, o.Labels)
	case kind == kindView && parent != "" && o.IDMap == nil:
		err = l.Link(ctx, Prefix+key, below, o.Labels)
	default:
		// containerd's unpacker names what a snapshot will become (core/unpack/unpacker.go), and after a crash makes another one.
		o.Detached, o.Draft = parent == "", kind == kindActive && o.Labels[snapshots.LabelSnapshotRef] != ""
		err = l.Create(ctx, Prefix+key, below, o)
	}
	if err != nil {
		return nil, err
	}
	mounts, err := s.mounts(ctx, l, key, kind)
	if err != nil {
		return nil, errors.Join(err, l.Remove(context.WithoutCancel(ctx), Prefix+key))
	}
	return mounts, nil
}

// Mounts tells how to mount an active snapshot or a view. ErrNotFound, ErrFailedPrecondition (it is committed).
func (s *Snapshotter) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	l, i, err := s.stat(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("mounts of snapshot %q: %w", key, err)
	}
	kind := i.Labels[labelKind]
	if kind == kindCommitted {
		return nil, fmt.Errorf("mounts of snapshot %q: it is committed: %w", key, errdefs.ErrFailedPrecondition)
	}
	mounts, err := s.mounts(ctx, l, key, kind)
	if err != nil {
		return nil, fmt.Errorf("mounts of snapshot %q: %w", key, err)
	}
	return mounts, nil
}

func (s *Snapshotter) mounts(ctx context.Context, l Layers, key, kind string) ([]mount.Mount, error) {
	mounts, err := l.Mounts(ctx, Prefix+key, store.MountOptions{ReadOnly: kind == kindView})
	if err != nil {
		return nil, err
	}
	return s.abroad(mounts), nil
}

// abroad translates mounts to containerd's words and paths.
func (s *Snapshotter) abroad(mounts []backend.Mount) []mount.Mount {
	list := make([]mount.Mount, 0, len(mounts))
	for _, m := range mounts {
		t := mount.Mount{Type: m.Type, Source: m.Source}
		if strings.HasPrefix(m.Source, "/") {
			t.Source = s.o.HostPath(m.Source)
		}
		for _, o := range m.Options {
			t.Options = append(t.Options, s.option(o))
		}
		list = append(list, t)
	}
	return list
}

// option translates the paths in a mount option.
func (s *Snapshotter) option(o string) string {
	key, value, found := strings.Cut(o, "=")
	if !found || !strings.HasPrefix(value, "/") {
		return o
	}
	dirs := strings.Split(value, ":")
	for i, dir := range dirs {
		dirs[i] = s.o.HostPath(dir)
	}
	return key + "=" + strings.Join(dirs, ":")
}

// Commit makes an active snapshot a committed one of another name. ErrNotFound, ErrAlreadyExists,
// ErrFailedPrecondition (it is not active, or still mounted by the store), ErrNotImplemented (another parent, where the
// backend cannot do that).
func (s *Snapshotter) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	if err := s.commit(ctx, name, key, opts); err != nil {
		return fmt.Errorf("commit snapshot %q as %q: %w", key, name, err)
	}
	return nil
}

func (s *Snapshotter) commit(ctx context.Context, name, key string, opts []snapshots.Opt) error {
	l, i, err := s.stat(ctx, key)
	if err != nil {
		return err
	}
	if i.Labels[labelKind] != kindActive {
		return fmt.Errorf("it is not active: %w", errdefs.ErrFailedPrecondition)
	}
	info, err := apply(opts)
	if err != nil {
		return err
	}
	o := store.CommitOptions{Labels: info.Labels}
	o.Labels[labelKind] = kindCommitted
	if info.Parent != "" {
		o.Parent = Prefix + info.Parent
		p, err := l.Stat(ctx, o.Parent)
		if err != nil {
			return fmt.Errorf("parent %q: %w", info.Parent, err)
		}
		if p.Labels[labelKind] != kindCommitted {
			return fmt.Errorf("parent %q is not committed: %w", info.Parent, errdefs.ErrFailedPrecondition)
		}
	}
	return l.Commit(ctx, Prefix+key, Prefix+name, o)
}

// Remove removes a snapshot; its data is deleted in the background. ErrNotFound, ErrFailedPrecondition (it has
// children).
func (s *Snapshotter) Remove(ctx context.Context, key string) error {
	l, _, err := s.stat(ctx, key)
	if err == nil {
		err = l.Remove(ctx, Prefix+key)
	}
	if err != nil {
		return fmt.Errorf("remove snapshot %q: %w", key, err)
	}
	return nil
}

// Stat describes a snapshot. ErrNotFound.
func (s *Snapshotter) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	_, i, err := s.stat(ctx, key)
	if err != nil {
		return snapshots.Info{}, fmt.Errorf("snapshot %q: %w", key, err)
	}
	return info(i), nil
}

// Update changes a snapshot's labels, all of them unless fieldpaths name some. ErrNotFound, ErrInvalidArgument (another
// field, a label of ours, one that is too long).
func (s *Snapshotter) Update(ctx context.Context, want snapshots.Info, fieldpaths ...string) (snapshots.Info, error) {
	l, _, err := s.stat(ctx, want.Name)
	var i store.Info
	if err == nil {
		i, err = l.UpdateLabels(ctx, Prefix+want.Name, func(labels map[string]string) error {
			labels[labelUpdated] = time.Now().UTC().Format(time.RFC3339Nano)
			return changeLabels(labels, want.Labels, fieldpaths)
		})
	}
	if err != nil {
		return snapshots.Info{}, fmt.Errorf("update snapshot %q: %w", want.Name, err)
	}
	return info(i), nil
}

// changeLabels gives a layer the labels that its snapshot is to have. Its own it keeps.
func changeLabels(labels, want map[string]string, fieldpaths []string) error {
	if err := checkLabels(want); err != nil {
		return err
	}
	if len(fieldpaths) == 0 {
		fieldpaths = []string{"labels"}
	}
	for _, path := range fieldpaths {
		key, one := strings.CutPrefix(path, "labels.")
		switch {
		case one:
			if err := checkKey(key); err != nil {
				return err
			}
			labels[key] = want[key]
		case path == "labels":
			maps.DeleteFunc(labels, func(key, _ string) bool { return !strings.HasPrefix(key, labelPrefix) })
			maps.Copy(labels, want)
		default:
			return fmt.Errorf("field %q cannot be changed, only labels can: %w", path, errdefs.ErrInvalidArgument)
		}
	}
	dropEmpty(labels)
	return nil
}

// Usage returns what a snapshot itself takes on disk. ErrNotFound.
func (s *Snapshotter) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	l, i, err := s.stat(ctx, key)
	var u backend.Usage
	if err == nil && i.Labels[labelKind] != kindView { // a view takes nothing, whatever it shows
		u, err = l.Usage(ctx, Prefix+key)
	}
	if err != nil {
		return snapshots.Usage{}, fmt.Errorf("usage of snapshot %q: %w", key, err)
	}
	return snapshots.Usage{Inodes: u.Inodes, Size: u.Size}, nil
}

// Walk calls fn for each snapshot that one of the filters matches, or for each if there is none, in the order of their
// names. No lock is held meanwhile.
func (s *Snapshotter) Walk(ctx context.Context, fn snapshots.WalkFunc, fs ...string) error {
	filter, err := filters.ParseAll(fs...)
	if err != nil {
		return fmt.Errorf("walk snapshots: %w", err)
	}
	l, err := s.o.Store(ctx)
	if err != nil {
		return fmt.Errorf("walk snapshots: %w", err)
	}
	layers, err := l.List(ctx)
	if err != nil {
		return fmt.Errorf("walk snapshots: %w", err)
	}
	for _, i := range layers {
		if !isSnapshot(i) {
			continue
		}
		if si := info(i); filter.Match(adaptor(si)) {
			if err := fn(ctx, si); err != nil {
				return err
			}
		}
	}
	return nil
}

// adaptor lets filters look at a snapshot.
func adaptor(i snapshots.Info) filters.Adaptor {
	return filters.AdapterFunc(func(path []string) (string, bool) {
		if len(path) == 0 {
			return "", false
		}
		switch path[0] {
		case "kind":
			return strings.ToLower(i.Kind.String()), true
		case "name":
			return i.Name, true
		case "parent":
			return i.Parent, true
		case "labels":
			v, ok := i.Labels[strings.Join(path[1:], ".")]
			return v, ok
		}
		return "", false
	})
}

// Cleanup does nothing: the store deletes what was removed by itself, and tries again what fails.
func (s *Snapshotter) Cleanup(context.Context) error { return nil }

// Close does nothing: the store is the program's.
func (s *Snapshotter) Close() error { return nil }

// stat returns the layer that is the snapshot. ErrNotFound.
func (s *Snapshotter) stat(ctx context.Context, key string) (Layers, store.Info, error) {
	l, err := s.o.Store(ctx)
	if err != nil {
		return nil, store.Info{}, err
	}
	i, err := l.Stat(ctx, Prefix+key)
	if err == nil && !isSnapshot(i) {
		err = errdefs.ErrNotFound // still being made
	}
	return l, i, err
}

func isSnapshot(i store.Info) bool {
	return strings.HasPrefix(i.Name, Prefix) && i.Labels[labelKind] != "" && i.State != store.StateCreating
}

// info translates the store's description of a snapshot.
func info(i store.Info) snapshots.Info {
	si := snapshots.Info{
		Kind: snapshots.ParseKind(i.Labels[labelKind]), Name: strings.TrimPrefix(i.Name, Prefix),
		Parent: strings.TrimPrefix(i.Parent, Prefix), Created: i.Created, Updated: i.Created,
	}
	if isHandedOver(i) {
		si.Parent = i.Labels[labelParent]
	}
	if t, err := time.Parse(time.RFC3339Nano, i.Labels[labelUpdated]); err == nil {
		si.Updated = t
	}
	for k, v := range i.Labels {
		if !strings.HasPrefix(k, labelPrefix) {
			if si.Labels == nil {
				si.Labels = map[string]string{}
			}
			si.Labels[k] = v
		}
	}
	return si
}

// apply returns what the options say. Labels is not nil.
func apply(opts []snapshots.Opt) (i snapshots.Info, err error) {
	for _, o := range opts {
		if err := o(&i); err != nil {
			return i, err
		}
	}
	if i.Labels = maps.Clone(i.Labels); i.Labels == nil {
		i.Labels = map[string]string{}
	}
	if err := checkLabels(i.Labels); err != nil {
		return i, err
	}
	dropEmpty(i.Labels)
	return i, nil
}

// dropEmpty removes labels without a value, as containerd does (core/metadata/boltutil/helpers.go, writeMap).
func dropEmpty(labels map[string]string) {
	maps.DeleteFunc(labels, func(_, value string) bool { return value == "" })
}

// checkLabels refuses labels of ours in a request. How long labels can be is the store's business.
func checkLabels(labels map[string]string) error {
	for key := range labels {
		if err := checkKey(key); err != nil {
			return err
		}
	}
	return nil
}

func checkKey(key string) error {
	if strings.HasPrefix(key, labelPrefix) {
		return fmt.Errorf("label %.64q: names that begin with %s are Strata's own: %w", key, labelPrefix, errdefs.ErrInvalidArgument)
	}
	return nil
}

// createOptions understands the labels that mean something.
func createOptions(labels map[string]string) (o store.CreateOptions, err error) {
	o.Labels = labels
	if text, ok := labels[snapshots.LabelSnapshotMaxSize]; ok {
		if o.Limit, err = strconv.ParseInt(text, 10, 64); err != nil || o.Limit < 0 {
			return o, fmt.Errorf("label %s=%q is no number of bytes: %w", snapshots.LabelSnapshotMaxSize, text, errdefs.ErrInvalidArgument)
		}
	}
	o.IDMap, err = idMap(labels[snapshots.LabelSnapshotUIDMapping], labels[snapshots.LabelSnapshotGIDMapping])
	return o, err
}

// idMap reads the labels of an ID map, nil if there are none.
func idMap(uids, gids string) (*backend.IDMap, error) {
	if uids == "" && gids == "" {
		return nil, nil //nolint:nilnil // nil is the map that changes nothing
	}
	u, err := idRanges(snapshots.LabelSnapshotUIDMapping, uids)
	if err != nil {
		return nil, err
	}
	g, err := idRanges(snapshots.LabelSnapshotGIDMapping, gids)
	if err != nil {
		return nil, err
	}
	m := &backend.IDMap{UIDs: u, GIDs: g}
	if err := m.Check(); err != nil {
		return nil, fmt.Errorf("labels %s=%q, %s=%q: %w", snapshots.LabelSnapshotUIDMapping, uids, snapshots.LabelSnapshotGIDMapping, gids, err)
	}
	return m, nil
}

func idRanges(label, text string) (list []backend.IDRange, err error) {
	for _, word := range strings.Split(text, ",") {
		var n [3]uint64
		fields := strings.Split(word, ":")
		ok := len(fields) == len(n)
		for i := range n {
			if ok {
				n[i], err = strconv.ParseUint(fields[i], 10, 32)
				ok = err == nil
			}
		}
		if !ok {
			return nil, fmt.Errorf("label %s=%q: want CONTAINER:HOST:SIZE, separated by commas: %w", label, text, errdefs.ErrInvalidArgument)
		}
		list = append(list, backend.IDRange{Container: uint32(n[0]), Host: uint32(n[1]), Size: uint32(n[2])})
	}
	return list, nil
}
