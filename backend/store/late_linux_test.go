package store_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/internal/failpoint"
	"strata/backend/store"
)

// late makes the first call stop at a failpoint until the second one has begun, and returns what both say.
func late(point string, first, second func() error) (firstErr, secondErr error) {
	reached, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	defer failpoint.Arm(point, func() error {
		once.Do(func() {
			close(reached)
			<-release
		})
		return nil
	})()
	firsts, seconds := make(chan error, 1), make(chan error, 1)
	go func() { firsts <- first() }()
	<-reached
	go func() { seconds <- second() }()
	time.Sleep(50 * time.Millisecond) // until it waits
	close(release)
	return <-firsts, <-seconds
}

// cloning is a backend that can copy layers, and keeps limits.
type cloning struct{ *listing }

func newCloning(ctx context.Context, env backend.Env) (backend.Backend, error) {
	b, err := newListing(ctx, env)
	if err != nil {
		return nil, err
	}
	return &cloning{b.(*listing)}, nil
}

func (c *cloning) Clone(_ context.Context, l, template backend.Layer) error {
	return os.CopyFS(filepath.Join(c.home, l.ID), os.DirFS(filepath.Join(c.home, template.ID)))
}

func (c *cloning) SetLimit(context.Context, backend.Layer, int64) error { return nil }

// What was judged before a layer's lock is judged again under it, by the name that it was called by.
func TestLateCalls(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	const point = "store.record.synced" // in a Commit, under the layer's lock
	commit := func(s *store.Store) error { return s.Commit(ctx, "a", "b", store.CommitOptions{}) }
	setIDMap := func(s *store.Store) error { return s.SetIDMap(ctx, "a", maps1) }
	remove := func(s *store.Store) error { return s.Remove(ctx, "a") }
	mount := func(s *store.Store) error { _, err := s.Mount(ctx, "a", store.MountOptions{}); return err }
	none := func(err error) bool { return err == nil }
	for _, tc := range []struct {
		name          string
		point         string
		first, second func(*store.Store) error
		says          func(error) bool // the second
		left          string           // the names that are there afterwards
	}{
		{"remove during set ID map", "store.create.filled", setIDMap, remove, none, ""},
		{"remove during commit", point, commit, remove, none, "b"},
		{"remove during remove", "store.remove.unmounted", remove, remove, none, ""},
		{"mount during commit", point, commit, mount, errdefs.IsNotFound, "b"},
		{"mount during remove", "store.remove.unmounted", remove, mount, errdefs.IsNotFound, ""},
		{"mount during set ID map", "store.create.filled", setIDMap, mount, none, "a"},
		{"create child during set ID map", "store.create.filled", setIDMap, func(s *store.Store) error {
			return s.Create(ctx, "child", "a", store.CreateOptions{})
		}, none, "a child"},
		{"link during set ID map", "store.create.filled", setIDMap, func(s *store.Store) error {
			return s.Link(ctx, "link", "a", nil)
		}, none, "a link"},
		{"clone during set ID map", "store.create.filled", setIDMap, func(s *store.Store) error {
			return s.Clone(ctx, "clone", "a", store.CreateOptions{})
		}, none, "a clone"},
		{"apply during set ID map", "store.create.filled", setIDMap, func(s *store.Store) error {
			_, err := s.Apply(ctx, "a", bytes.NewReader(oneFile(t, "f", "")))
			return err
		}, none, "a"},
		{"commit during set ID map", "store.create.filled", setIDMap, commit, none, "b"},
		{"commit during commit", point, commit, func(s *store.Store) error {
			return s.Commit(ctx, "a", "c", store.CommitOptions{})
		}, errdefs.IsNotFound, "b"},
		{"set limit during remove", "store.remove.unmounted", remove, func(s *store.Store) error { return s.SetLimit(ctx, "a", 1<<20) }, errdefs.IsNotFound, ""},
		{"set limit during commit", point, commit, func(s *store.Store) error { return s.SetLimit(ctx, "a", 1<<20) }, errdefs.IsNotFound, "b"},
		{"set ID map during remove", "store.remove.unmounted", remove, setIDMap, errdefs.IsNotFound, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := config(t)
			c.New = newCloning
			s := open(t, c)
			assert.NilError(t, s.Create(ctx, "a", "", store.CreateOptions{}))
			first, second := late(tc.point, func() error { return tc.first(s) }, func() error { return tc.second(s) })
			assert.NilError(t, first)
			assert.Assert(t, tc.says(second), "%v", second)
			checkNames(t, s, c.Root, strings.Fields(tc.left)...)
			assert.NilError(t, s.Close(ctx))
			s, err := store.Open(ctx, c)
			assert.NilError(t, err)
			checkNames(t, s, c.Root, strings.Fields(tc.left)...)
			for _, name := range []string{"child", "link", "clone", "a", "b"} {
				assert.NilError(t, s.Remove(ctx, name))
			}
			checkNames(t, s, c.Root)
			assert.NilError(t, s.Close(ctx))
		})
	}
}

// checkNames wants these layers, and one record for each.
func checkNames(t *testing.T, s *store.Store, root string, want ...string) {
	t.Helper()
	assert.NilError(t, s.Settle(t.Context()))
	infos, err := s.List(t.Context())
	assert.NilError(t, err)
	names := []string{}
	for _, i := range infos {
		names = append(names, i.Name)
	}
	assert.Equal(t, strings.Join(names, " "), strings.Join(want, " "))
	recs := readDisk(t, root)
	assert.Equal(t, len(recs), len(want), "%v", recs)
}

// A client that unmounts once too often does not unmount what a diff is read from.
func TestSurplusUnmountBesideDiff(t *testing.T) {
	needRoot(t)
	s := open(t, config(t))
	ctx := t.Context()
	assert.NilError(t, s.Create(ctx, "a", "", store.CreateOptions{}))
	assert.NilError(t, s.Create(ctx, "b", "", store.CreateOptions{}))
	dir, err := s.Mount(ctx, "a", store.MountOptions{})
	assert.NilError(t, err)
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "file"), []byte("content"), 0o600))
	assert.NilError(t, s.Unmount(ctx, "a"))
	for name, unmount := range map[string]func() error{
		"unmount":     func() error { return s.Unmount(ctx, "a") },
		"unmount all": func() error { return s.UnmountAll(ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			mounted, done := 0, make(chan error, 1)
			defer failpoint.Arm("store.mount.mounted", func() error {
				if mounted++; mounted == 2 { // a is, b has just been, and nobody has looked at them
					go func() { done <- unmount() }() // which may wait for b
					time.Sleep(50 * time.Millisecond)
				}
				return nil
			})()
			var b bytes.Buffer
			assert.NilError(t, s.Diff(ctx, "a", "b", &b))
			assert.Equal(t, mounted, 2)
			assert.NilError(t, <-done)
			assert.Assert(t, bytes.Contains(b.Bytes(), []byte("content")), "%d bytes", b.Len())
			i, err := s.Stat(ctx, "a")
			assert.NilError(t, err)
			assert.Equal(t, i.Mounts, 0)
			_, err = os.Stat(dir)
			assert.Assert(t, os.IsNotExist(err), "it stays mounted: %v", err)
		})
	}
}

// A link is a template as long as it is there, whatever its client has done to the layer whose name it is, and to those below.
func TestCloneOfLinkToDiscarded(t *testing.T) {
	needRoot(t)
	s := open(t, config(t))
	ctx := t.Context()
	assert.NilError(t, s.Create(ctx, "base", "", store.CreateOptions{}))
	assert.NilError(t, s.Create(ctx, "a", "base", store.CreateOptions{}))
	assert.NilError(t, s.Link(ctx, "link", "a", nil))
	assert.NilError(t, s.Discard(ctx, "a"))
	assert.NilError(t, s.Discard(ctx, "base"))
	assert.NilError(t, s.Clone(ctx, "clone", "link", store.CreateOptions{}))
	assert.NilError(t, s.Remove(ctx, "link"))
	assert.NilError(t, s.Diff(ctx, "clone", "", io.Discard))
	assert.NilError(t, s.Remove(ctx, "clone"))
}
