// Package controltest has a store that is not one, for tests of the control API and of the command
// that speaks it.
package controltest

import (
	"context"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"strata/backend"
	"strata/backend/store"
	"strata/plugin/control"
)

// Fake implements control.Store with canned answers. Its exported fields
// are set before it is used; its methods may be called concurrently.
type Fake struct {
	Layers []store.Info
	Tar    []byte // what Diff writes
	Before func(ctx context.Context, method string)
	// OnChanges, if not nil, answers for Changes.
	OnChanges func(ctx context.Context) iter.Seq2[backend.Change, error]

	mu       sync.Mutex // guards what follows
	calls    []string
	findings []store.Finding
	fail     map[string]error
}

var _ control.Store = (*Fake)(nil)

// Hex returns a name as Docker gives it: 64 times one hexadecimal digit.
func Hex(digit byte) string {
	const length = 64
	return string(slices.Repeat([]byte{digit}, length))
}

// New returns a store with an image of two layers, a container on it, and an orphan of BuildKit's.
func New() *Fake {
	created := time.Date(2024, time.May, 1, 12, 0, 0, 0, time.UTC)
	a, b, c := Hex('a'), Hex('b'), Hex('c')
	applied := &store.Applied{Size: 1500, Bytes: 4096, Digest: "sha256:" + Hex('1'), Exact: true}
	return &Fake{
		Tar: []byte("not really a tar\n"),
		Layers: []store.Info{
			{Name: a, ID: "ida", State: store.StateReady, Sealed: true, Created: created, Applied: applied, Children: 1},
			{Name: b, ID: "idb", Parent: a, State: store.StateReady, Sealed: true, Created: created, Applied: applied, Children: 1},
			{Name: c, ID: "idc", Parent: c + "-init", State: store.StateReady, Created: created, Mounts: 1, MountDir: "/store/mnt/idc"},
			{Name: c + "-init", ID: "idi", Parent: b, State: store.StateReady, Sealed: true, Created: created, Children: 1},
			{Name: "0123456789abcdefghijklmno", ID: "idk", State: store.StateReady, Created: created},
		},
		fail: map[string]error{},
	}
}

// Calls lists the calls so far that change something, or would.
func (f *Fake) Calls() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// Fail makes a method return err after it has done everything else.
func (f *Fake) Fail(method string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail[method] = err
}

// Find makes Check find something.
func (f *Fake) Find(list ...store.Finding) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.findings = append(f.findings, list...)
}

func (f *Fake) found() []store.Finding {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.findings)
}

// called runs Before and returns the method's error.
func (f *Fake) called(ctx context.Context, method, record string) error {
	if f.Before != nil {
		f.Before(ctx, method)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if record != "" {
		f.calls = append(f.calls, method+" "+record)
	}
	return f.fail[method]
}

// Info implements control.Reader.
func (f *Fake) Info(ctx context.Context) (store.StoreInfo, error) {
	return store.StoreInfo{
		Root: "/store", UUID: "u-u-i-d", Format: 1, Backend: "thick", Sync: store.SyncLayer, ExactDiffs: true, MountDir: "/store/mnt",
		Stores: []string{"/other"}, Layers: map[store.State]int{store.StateReady: len(f.Layers), store.StateRemoving: 2}, Mounted: 1, Deleting: 2,
		Abilities: []backend.Field{{Name: "diff", Value: "native"}}, Fields: []backend.Field{{Name: "file system", Value: "ext4"}},
	}, f.called(ctx, "Info", "")
}

// List implements control.Reader.
func (f *Fake) List(ctx context.Context) ([]store.Info, error) {
	return f.Layers, f.called(ctx, "List", "")
}

// Stat implements control.Reader.
func (f *Fake) Stat(ctx context.Context, name string) (store.Info, error) {
	for _, l := range f.Layers {
		if l.Name == name {
			return l, f.called(ctx, "Stat", "")
		}
	}
	return store.Info{}, fmt.Errorf("layer %q: %w", name, errdefs.ErrNotFound)
}

// Usage implements control.Reader. The sizes are powers of two in the order of the layers.
func (f *Fake) Usage(ctx context.Context, name string) (backend.Usage, error) {
	for i, l := range f.Layers {
		if l.Name == name {
			return backend.Usage{Size: 1 << (10 + i), Inodes: int64(i)}, f.called(ctx, "Usage", "")
		}
	}
	return backend.Usage{}, fmt.Errorf("layer %q: %w", name, errdefs.ErrNotFound)
}

// Leaving implements control.Reader: a layer that is being deleted, and one that has children.
func (f *Fake) Leaving(ctx context.Context) ([]store.Leaving, error) {
	return []store.Leaving{
		{Name: Hex('7'), ID: "id7", Usage: backend.Usage{Size: 1 << 20, Inodes: 7}},
		{Name: Hex('8'), ID: "id8", Keeps: true, Usage: backend.Usage{Size: 1 << 21, Inodes: 8}},
	}, f.called(ctx, "Leaving", "")
}

// Changes implements control.Reader.
func (f *Fake) Changes(ctx context.Context, name, parent string) iter.Seq2[backend.Change, error] {
	if f.OnChanges != nil {
		return f.OnChanges(ctx)
	}
	return func(yield func(backend.Change, error) bool) {
		if err := f.called(ctx, "Changes", name+" "+parent); err != nil {
			yield(backend.Change{}, err)
			return
		}
		_ = yield(backend.Change{Path: "/etc", Kind: backend.Modified}, nil) &&
			yield(backend.Change{Path: "/etc/new", Kind: backend.Added}, nil) &&
			yield(backend.Change{Path: "/old", Kind: backend.Deleted}, nil)
	}
}

// Diff implements control.Reader.
func (f *Fake) Diff(ctx context.Context, name, parent string, w io.Writer) error {
	if _, err := w.Write(f.Tar); err != nil {
		return err
	}
	return f.called(ctx, "Diff", name+" "+parent)
}

// Check implements control.Writer. With Repair the first finding is repaired.
func (f *Fake) Check(ctx context.Context, o store.CheckOptions) ([]store.Finding, error) {
	if o.Progress != nil {
		o.Progress(1, len(f.Layers))
		o.Progress(len(f.Layers), len(f.Layers))
	}
	found := f.found()
	if o.Repair && len(found) > 0 {
		found[0].Repaired = "removed"
	}
	return found, f.called(ctx, "Check", fmt.Sprintf("deep=%v repair=%v", o.Deep, o.Repair))
}

// GC implements control.Writer: an orphan is what is not known.
func (f *Fake) GC(ctx context.Context, o store.GCOptions) ([]store.Orphan, error) {
	var orphans []store.Orphan
	for i, l := range f.Layers {
		if o.Known != nil && !o.Known[l.Name] {
			size := int64(1) << (10 + i) // as Usage has it
			orphans = append(orphans, store.Orphan{Name: l.Name, ID: l.ID, Size: &size, Reason: store.ReasonUnknown, Removed: o.Yes})
		}
	}
	return orphans, f.called(ctx, "GC", fmt.Sprintf("known=%d yes=%v", len(o.Known), o.Yes))
}

// Adopt implements control.Writer: there is an image of two layers.
func (f *Fake) Adopt(ctx context.Context, yes bool) ([]store.Adoption, error) {
	d, e := Hex('d'), Hex('e')
	return []store.Adoption{{Name: d, Adopted: yes}, {Name: e, Parent: d, Adopted: yes}}, f.called(ctx, "Adopt", fmt.Sprintf("yes=%v", yes))
}

// Clone implements control.Writer.
func (f *Fake) Clone(ctx context.Context, name, template string, o store.CreateOptions) error {
	err := f.called(ctx, "Clone", fmt.Sprintf("%s %s limit=%d label=%s labels=%v", name, template, o.Limit, o.Label, o.Labels))
	if err == nil {
		f.Layers = append(f.Layers, store.Info{Name: name, ID: "clone", State: store.StateReady})
	}
	return err
}

// SetIDMap implements control.Writer.
func (f *Fake) SetIDMap(ctx context.Context, name string, m *backend.IDMap) error {
	return f.called(ctx, "SetIDMap", fmt.Sprintf("%s %v", name, m != nil))
}
