package store_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"strata/backend"
	"strata/backend/backendtest"
	"strata/backend/store"
)

// listing is the minimal backend with a list of what it holds.
type listing struct {
	*backendtest.Dir
	home string
}

func newListing(ctx context.Context, env backend.Env) (backend.Backend, error) {
	b, err := backendtest.NewDir(ctx, env)
	if err != nil {
		return nil, err
	}
	return &listing{Dir: b.(*backendtest.Dir), home: env.Home}, nil
}

func (l *listing) List(context.Context) ([]string, error) {
	entries, err := os.ReadDir(l.home)
	ids := make([]string, 0, len(entries))
	for _, e := range entries {
		ids = append(ids, e.Name())
	}
	return ids, err
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts layers and gives files to their owners")
	}
}

func config(t *testing.T) store.Config {
	t.Helper()
	return store.Config{Root: filepath.Join(t.TempDir(), "store"), Backend: "listing", New: newListing, ExactDiffs: true}
}

func open(t *testing.T, c store.Config) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), c)
	assert.NilError(t, err)
	t.Cleanup(func() {
		infos, err := s.List(context.Background())
		assert.NilError(t, err)
		for _, i := range infos {
			for range i.Mounts {
				assert.NilError(t, s.Unmount(context.Background(), i.Name))
			}
		}
		assert.NilError(t, s.Close(context.Background()))
	})
	return s
}

// oneFile is a layer tar that holds one file.
func oneFile(t *testing.T, name, content string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	assert.NilError(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}))
	_, err := io.WriteString(w, content)
	assert.NilError(t, err)
	assert.NilError(t, w.Close())
	return b.Bytes()
}

func TestOpenRefuses(t *testing.T) {
	c := config(t)
	s, err := store.Open(t.Context(), c)
	assert.NilError(t, err)
	_, err = store.Open(t.Context(), c)
	assert.Assert(t, errdefs.IsUnavailable(err), "second opener: %v", err)
	assert.ErrorContains(t, err, fmt.Sprintf("process %d (%s", os.Getpid(), os.Args[0]))
	assert.NilError(t, s.Close(t.Context()))
	record := filepath.Join(c.Root, "layers", "unreadable") // which is a record all the same
	assert.NilError(t, os.WriteFile(record, nil, 0o600))

	for _, tc := range []struct {
		name   string
		change func(*store.Config)
		is     func(error) bool
		says   string
	}{
		{"relative root", func(c *store.Config) { c.Root = "store" }, errdefs.IsInvalidArgument, "absolute"},
		{"unknown sync", func(c *store.Config) { c.Sync = "maybe" }, errdefs.IsInvalidArgument, `want "layer" or "none"`},
		{"another backend", func(c *store.Config) { c.Backend = "other" }, errdefs.IsFailedPrecondition, "holds 1 layer: use backend=listing"},
		{"another promise", func(c *store.Config) { c.ExactDiffs, c.ExactDiffsSet = false, true }, errdefs.IsFailedPrecondition, "exact-diffs=true"},
		{"missing parent directory", func(c *store.Config) { c.Root += "/a/b" }, func(err error) bool { return errors.Is(err, os.ErrNotExist) }, ""},
		{"missing additional store", func(c *store.Config) { c.Stores = []string{c.Root + "-none"} }, nil, "additional store"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := c
			tc.change(&c)
			_, err := store.Open(t.Context(), c)
			assert.ErrorContains(t, err, tc.says)
			if tc.is != nil {
				assert.Assert(t, tc.is(err), "wrong class: %v", err)
			}
		})
	}
	s, err = store.Open(t.Context(), c) // and the refusals left it usable
	assert.NilError(t, err)
	assert.NilError(t, s.Close(t.Context()))
}

func TestOpenRefusesLostMeta(t *testing.T) {
	needRoot(t)
	c := config(t)
	s, err := store.Open(t.Context(), c)
	assert.NilError(t, err)
	assert.NilError(t, s.Create(t.Context(), "a", "", store.CreateOptions{}))
	assert.NilError(t, s.Close(t.Context()))
	assert.NilError(t, os.Remove(filepath.Join(c.Root, "strata.json")))
	_, err = store.Open(t.Context(), c)
	assert.Assert(t, errdefs.IsDataLoss(err), "%v", err)
}

// Check finds each kind of damage, and repairs what needs no guess.
func TestCheckFindings(t *testing.T) {
	needRoot(t)
	c := config(t)
	s := open(t, c)
	ctx := t.Context()
	for _, name := range []string{"intact", "lost", "rotten", "orphaned"} {
		assert.NilError(t, s.Create(ctx, name, "", store.CreateOptions{}))
	}
	assert.NilError(t, s.Create(ctx, "child", "orphaned", store.CreateOptions{}))
	assert.NilError(t, s.Create(ctx, "grandchild", "child", store.CreateOptions{}))
	for _, name := range []string{"applied", "unlogged"} {
		assert.NilError(t, s.Create(ctx, name, "", store.CreateOptions{}))
		_, err := s.Apply(ctx, name, bytes.NewReader(oneFile(t, "file", "content")))
		assert.NilError(t, err)
	}
	findings, err := s.Check(ctx, store.CheckOptions{Deep: true})
	assert.NilError(t, err)
	assert.Equal(t, len(findings), 0, "%v", findings)

	id := func(name string) string {
		i, err := s.Stat(ctx, name)
		assert.NilError(t, err)
		return i.ID
	}
	data := filepath.Join(c.Root, "data", "listing")
	lost, rotten, orphaned, applied := id("lost"), id("rotten"), id("orphaned"), id("applied")
	assert.NilError(t, os.Remove(filepath.Join(c.Root, "logs", id("unlogged"))))
	assert.NilError(t, s.Close(ctx))
	assert.NilError(t, os.RemoveAll(filepath.Join(data, lost)))
	assert.NilError(t, os.Truncate(filepath.Join(c.Root, "layers", rotten), 20))
	assert.NilError(t, os.Remove(filepath.Join(c.Root, "layers", orphaned)))
	assert.NilError(t, os.WriteFile(filepath.Join(data, applied, "file"), []byte("CONTENT"), 0o600))
	foreign := filepath.Join(c.Root, "mnt", "foreign")
	assert.NilError(t, os.Mkdir(foreign, 0o700))
	assert.NilError(t, unix.Mount("tmpfs", foreign, "tmpfs", 0, ""))
	t.Cleanup(func() { assert.NilError(t, unix.Unmount(foreign, 0)) })

	s = open(t, c)
	kinds := func(o store.CheckOptions) map[store.FindingKind]string {
		findings, err := s.Check(ctx, o)
		assert.NilError(t, err)
		m := map[store.FindingKind]string{}
		for _, f := range findings {
			m[f.Kind] += f.Layer + "/" + f.Repaired
		}
		return m
	}
	assert.DeepEqual(t, kinds(store.CheckOptions{Deep: true}), map[store.FindingKind]string{
		store.FindingMissingData:     "lost/",
		store.FindingMissingMetadata: orphaned + "/",
		store.FindingMissingParent:   "child/grandchild/",
		store.FindingForeignMount:    "/",
		store.FindingBadRecord:       rotten + "/",
		store.FindingChanged:         "applied/unlogged/",
	})
	assert.Equal(t, kinds(store.CheckOptions{})[store.FindingChanged], "unlogged/")
	assert.Equal(t, s.Damaged(), 3, "the record that cannot be read, and what stands on the one that is gone")
	assert.Equal(t, kinds(store.CheckOptions{Repair: true})[store.FindingMissingData], "lost/record removed, and kept in "+c.Root+"/damaged/layers-"+lost)
	_, stillThere := kinds(store.CheckOptions{})[store.FindingMissingData]
	assert.Assert(t, !stillThere)
	for _, above := range []string{"child", "grandchild"} {
		_, err = s.Mount(ctx, above, store.MountOptions{})
		assert.Assert(t, errdefs.IsDataLoss(err), "%v", err)
		err = s.Create(ctx, "top", above, store.CreateOptions{})
		assert.Assert(t, errdefs.IsDataLoss(err), "%v", err)
	}
}

func TestGC(t *testing.T) {
	needRoot(t)
	c := config(t)
	s := open(t, c)
	ctx := t.Context()
	for _, l := range []struct{ name, parent string }{
		{"base", ""}, {"kept", "base"}, {"dead", "base"}, {"deader", "dead"}, {"alone", ""},
	} {
		assert.NilError(t, s.Create(ctx, l.name, l.parent, store.CreateOptions{}))
	}
	assert.NilError(t, os.Mkdir(filepath.Join(c.Root, "data", "listing", "stray"), 0o700))
	known := map[string]bool{"kept": true}

	listed, err := s.GC(ctx, store.GCOptions{Known: known})
	assert.NilError(t, err)
	names := func(orphans []store.Orphan) (all []string) {
		for _, o := range orphans {
			all = append(all, o.Name+"("+map[bool]string{true: "removed"}[o.Removed]+")")
		}
		return all
	}
	assert.DeepEqual(t, names(listed), []string{"()", "deader()", "dead()", "alone()"})
	gone, err := s.GC(ctx, store.GCOptions{Known: known, Yes: true})
	assert.NilError(t, err)
	assert.DeepEqual(t, names(gone), []string{"(removed)", "deader(removed)", "dead(removed)", "alone(removed)"})
	left, err := s.GC(ctx, store.GCOptions{Known: known})
	assert.NilError(t, err)
	assert.Equal(t, len(left), 0, "%v", left)
	unknown, err := s.GC(ctx, store.GCOptions{})
	assert.NilError(t, err)
	assert.Equal(t, len(unknown), 0, "without a list of names no layer is an orphan: %v", unknown)
}

// A layer that a call fills or reads stays, and GC says so.
func TestGCBesideApply(t *testing.T) {
	needRoot(t)
	s := open(t, config(t))
	ctx := t.Context()
	assert.NilError(t, s.Create(ctx, "a", "", store.CreateOptions{}))
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := s.Apply(ctx, "a", r)
		done <- err
	}()
	_, err := w.Write(oneFile(t, "file", "content")[:600])
	assert.NilError(t, err)
	for _, yes := range []bool{false, true} {
		listed, err := s.GC(ctx, store.GCOptions{Known: map[string]bool{}, Yes: yes})
		assert.NilError(t, err)
		assert.Equal(t, len(listed), 1)
		assert.Equal(t, listed[0].Name, "a")
		assert.Equal(t, listed[0].Removed, false)
		assert.Assert(t, is.Contains(listed[0].Reason, "a call reads or fills it now"))
	}
	assert.NilError(t, w.CloseWithError(errors.New("the sender goes away")))
	assert.ErrorContains(t, <-done, "the sender goes away")
	gone, err := s.GC(ctx, store.GCOptions{Known: map[string]bool{}, Yes: true})
	assert.NilError(t, err)
	assert.Equal(t, len(gone), 1)
	assert.Equal(t, gone[0].Removed, true)
}

// stalled is a writer whose client takes nothing until it is interrupted.
type stalled struct {
	begun, interrupted chan struct{}
	once               sync.Once
}

func (s *stalled) Write([]byte) (int, error) {
	s.once.Do(func() { close(s.begun) })
	<-s.interrupted
	return 0, errors.New("interrupted")
}

// Apply ends a stream that has begun to read the empty layer: it would give a part of the tar.
func TestApplyEndsReaders(t *testing.T) {
	needRoot(t)
	c := config(t)
	c.New = newInPlace // where a mount is read, the layer is mounted, and takes no tar
	s := open(t, c)
	ctx := t.Context()
	assert.NilError(t, s.Create(ctx, "a", "", store.CreateOptions{}))
	w := &stalled{begun: make(chan struct{}), interrupted: make(chan struct{})}
	read := make(chan error, 1)
	go func() {
		interrupt := sync.OnceFunc(func() { close(w.interrupted) })
		read <- s.Diff(store.WithInterrupt(ctx, interrupt), "a", "", w)
	}()
	<-w.begun
	_, err := s.Apply(ctx, "a", bytes.NewReader(oneFile(t, "file", "content")))
	assert.NilError(t, err)
	assert.ErrorContains(t, <-read, "interrupted")
}

// Remove ends a stream that fills the layer.
func TestRemoveCancelsApply(t *testing.T) {
	needRoot(t)
	s := open(t, config(t))
	ctx := t.Context()
	assert.NilError(t, s.Create(ctx, "a", "", store.CreateOptions{}))
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := s.Apply(ctx, "a", r)
		r.CloseWithError(err)
		done <- err
	}()
	_, err := w.Write(oneFile(t, "file", "content")[:600])
	assert.NilError(t, err)
	removed := make(chan error, 1)
	go func() { removed <- s.Remove(ctx, "a") }()
	deadline := time.After(5 * time.Second)
feed:
	for { // the reader notices at its next read
		select {
		case err = <-done:
			break feed
		case <-deadline:
			t.Fatal("the stream goes on after its layer was removed")
		default:
			_, _ = w.Write(make([]byte, 512)) // fails when the reader is gone
		}
	}
	assert.Assert(t, errdefs.IsAborted(err), "%v", err)
	assert.NilError(t, <-removed)
	_, err = s.Stat(ctx, "a")
	assert.Assert(t, errdefs.IsNotFound(err))
}

// A name is free again at once, whatever the background deletion does.
func TestNameIsFreeAfterRemove(t *testing.T) {
	needRoot(t)
	s := open(t, config(t))
	for range 50 {
		assert.NilError(t, s.Create(t.Context(), "name", "", store.CreateOptions{}))
		assert.NilError(t, s.Remove(t.Context(), "name"))
	}
}

// What a crash left in the state removing goes at the next Open, children before parents.
func TestDeletionSurvivesRestart(t *testing.T) {
	needRoot(t)
	c := config(t)
	s, err := store.Open(t.Context(), c)
	assert.NilError(t, err)
	assert.NilError(t, s.Create(t.Context(), "a", "", store.CreateOptions{}))
	i, err := s.Stat(t.Context(), "a")
	assert.NilError(t, err)
	assert.NilError(t, s.Close(t.Context()))
	record := filepath.Join(c.Root, "layers", i.ID+".gone")
	assert.NilError(t, os.Rename(filepath.Join(c.Root, "layers", i.ID), record))

	s = open(t, c)
	_, err = s.Stat(t.Context(), "a")
	assert.Assert(t, errdefs.IsNotFound(err))
	for range 500 {
		if _, err = os.Stat(record); os.IsNotExist(err) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	assert.Assert(t, os.IsNotExist(err), "the record is still there: %v", err)
	entries, err := os.ReadDir(filepath.Join(c.Root, "data", "listing"))
	assert.NilError(t, err)
	assert.Equal(t, len(entries), 0)
}

func TestReadOnlyOpen(t *testing.T) {
	needRoot(t)
	c := config(t)
	s := open(t, c)
	assert.NilError(t, s.Create(t.Context(), "a", "", store.CreateOptions{}))
	c.ReadOnly = true
	ro := open(t, c) // beside the owner
	infos, err := ro.List(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, len(infos), 1)
	_, err = ro.Check(t.Context(), store.CheckOptions{Repair: true})
	assert.Assert(t, errdefs.IsFailedPrecondition(err))
	assert.Assert(t, errdefs.IsFailedPrecondition(ro.Create(t.Context(), "b", "", store.CreateOptions{})))
	assert.Assert(t, errdefs.IsFailedPrecondition(ro.Remove(t.Context(), "a")))
}

func TestSetSync(t *testing.T) {
	s := open(t, config(t))
	assert.NilError(t, s.SetSync(store.SyncNone))
	i, err := s.Info(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, i.Sync, store.SyncNone)
	assert.Assert(t, errdefs.IsInvalidArgument(s.SetSync("never")))
}

// Nobody but root passes through to the layers, and the root of a user namespace once it has one.
// access tells the modes and groups of directories.
func access(t *testing.T, dirs ...string) (all []string) {
	t.Helper()
	for _, dir := range dirs {
		var st unix.Stat_t
		assert.NilError(t, unix.Stat(dir, &st))
		all = append(all, fmt.Sprintf("%o %d", st.Mode&0o777, st.Gid))
	}
	return all
}

func mapTo(first uint32) *backend.IDMap {
	ids := []backend.IDRange{{Host: first, Size: 65536}}
	return &backend.IDMap{UIDs: ids, GIDs: ids}
}

// What lets a user namespace's root pass to its mounts is no wider than it has to be, wherever the mounts are.
func TestGates(t *testing.T) {
	needRoot(t)
	for name, tc := range map[string]struct {
		mode    os.FileMode // of the store's directory
		outside bool        // mounts lie elsewhere
		one     string      // access to the store's directory with one map's layers mounted
		two     string
		after   string
	}{
		"the store's own":      {0o700, false, "710 231072", "711 0", "700 0"},
		"somebody else's":      {0o755, false, "755 0", "755 0", "755 0"},
		"mounted elsewhere":    {0o700, true, "700 0", "700 0", "700 0"},
		"an earlier version's": {0o710, true, "700 0", "700 0", "700 0"},
	} {
		t.Run(name, func(t *testing.T) {
			c := config(t)
			ctx := t.Context()
			assert.NilError(t, os.Mkdir(c.Root, tc.mode))
			assert.NilError(t, os.Chmod(c.Root, tc.mode))
			if tc.outside {
				c.MountDir = filepath.Join(t.TempDir(), "strata")
			}
			s := open(t, c)
			dirs := map[string]string{}
			for name, first := range map[string]uint32{"a": 231072, "b": 331072, "b2": 331072} {
				assert.NilError(t, s.Create(ctx, name, "", store.CreateOptions{IDMap: mapTo(first)}))
			}
			mount := func(name string) {
				var err error
				dirs[name], err = s.Mount(ctx, name, store.MountOptions{})
				assert.NilError(t, err)
			}
			mount("a")
			assert.DeepEqual(t, access(t, c.Root, filepath.Dir(dirs["a"])), []string{tc.one, "710 231072"})
			mount("b")
			mount("b2")
			assert.DeepEqual(t, access(t, c.Root, filepath.Dir(dirs["b"])), []string{tc.two, "710 331072"})
			assert.Equal(t, filepath.Dir(dirs["b"]), filepath.Dir(dirs["b2"]))
			assert.NilError(t, s.Unmount(ctx, "b"))
			assert.DeepEqual(t, access(t, c.Root), []string{tc.two})
			findings, err := s.Check(ctx, store.CheckOptions{})
			assert.NilError(t, err)
			assert.Equal(t, len(findings), 0, "%v", findings)
			assert.NilError(t, s.UnmountAll(ctx))
			info, err := s.Info(ctx)
			assert.NilError(t, err)
			assert.DeepEqual(t, access(t, c.Root, info.MountDir), []string{tc.after, "700 0"})
			left, err := filepath.Glob(info.MountDir + "*")
			assert.NilError(t, err)
			assert.DeepEqual(t, left, []string{info.MountDir})
		})
	}
}

// A layer with an ID map that an earlier version has mounted in MountDir, which is open to its group for that, stays there as long as
// it is mounted.
func TestMountsOfAnEarlierVersion(t *testing.T) {
	needRoot(t)
	const gid = 231072
	c := config(t)
	ctx := t.Context()
	s, err := store.Open(ctx, c)
	assert.NilError(t, err)
	assert.NilError(t, s.Create(ctx, "l", "", store.CreateOptions{IDMap: mapTo(gid)}))
	i, err := s.Stat(ctx, "l")
	assert.NilError(t, err)
	now := i.MountDir
	assert.NilError(t, s.Close(ctx))

	mnt := filepath.Join(c.Root, "mnt")
	old := filepath.Join(mnt, i.ID)
	assert.NilError(t, os.Mkdir(old, 0o700))
	assert.NilError(t, unix.Mount(filepath.Join(c.Root, "data", "listing", i.ID), old, "", unix.MS_BIND, ""))
	for _, dir := range []string{c.Root, mnt} {
		assert.NilError(t, os.Chown(dir, 0, gid))
		assert.NilError(t, os.Chmod(dir, 0o710))
	}
	s = open(t, c)
	for range 2 {
		dir, err := s.Mount(ctx, "l", store.MountOptions{})
		assert.NilError(t, err)
		assert.Equal(t, dir, old)
	}
	for range 2 {
		assert.NilError(t, s.Unmount(ctx, "l"))
		assert.DeepEqual(t, access(t, c.Root, mnt), []string{"710 231072", "710 231072"})
	}
	assert.NilError(t, s.Unmount(ctx, "l"))
	assert.DeepEqual(t, access(t, c.Root, mnt), []string{"700 0", "700 0"})
	dir, err := s.Mount(ctx, "l", store.MountOptions{})
	assert.NilError(t, err)
	assert.Equal(t, dir, now)
	assert.DeepEqual(t, access(t, c.Root, mnt, filepath.Dir(now)), []string{"710 231072", "700 0", "710 231072"})
	assert.NilError(t, s.Unmount(ctx, "l"))
}

// A client that ended without unmounting leaves nothing mounted.
func TestUnmountAll(t *testing.T) {
	needRoot(t)
	s := open(t, config(t))
	ctx := t.Context()
	for _, name := range []string{"a", "b"} {
		assert.NilError(t, s.Create(ctx, name, "", store.CreateOptions{}))
		for range 2 {
			_, err := s.Mount(ctx, name, store.MountOptions{})
			assert.NilError(t, err)
		}
	}
	assert.NilError(t, s.UnmountAll(ctx))
	i, err := s.Info(ctx)
	assert.NilError(t, err)
	assert.Equal(t, i.Mounted, 0)
	dir, err := s.Mount(ctx, "a", store.MountOptions{})
	assert.NilError(t, err)
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "f"), nil, 0o600))
}

// A discarded parent loses its name at once and its data with its last child, a restart in between or not.
func TestDiscard(t *testing.T) {
	needRoot(t)
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart=%t", restart), func(t *testing.T) {
			c := config(t)
			s, err := store.Open(t.Context(), c)
			assert.NilError(t, err)
			ctx := t.Context()
			for _, l := range []struct{ name, parent string }{{"base", ""}, {"middle", "base"}, {"one", "middle"}, {"two", "middle"}} {
				assert.NilError(t, s.Create(ctx, l.name, l.parent, store.CreateOptions{}))
			}
			assert.Assert(t, errdefs.IsFailedPrecondition(s.Remove(ctx, "middle")))
			assert.NilError(t, s.Discard(ctx, "middle"))
			assert.NilError(t, s.Discard(ctx, "base"))
			assert.NilError(t, s.Discard(ctx, "one"))
			assert.NilError(t, s.Create(ctx, "middle", "", store.CreateOptions{}), "the name is free")
			if restart {
				assert.NilError(t, s.Close(ctx))
				s, err = store.Open(ctx, c)
				assert.NilError(t, err)
			}
			findings, err := s.Check(ctx, store.CheckOptions{})
			assert.NilError(t, err)
			assert.Equal(t, len(findings), 0, "%v", findings)
			_, err = s.Mount(ctx, "two", store.MountOptions{})
			assert.NilError(t, err, "the child still has its parents")
			assert.NilError(t, s.Unmount(ctx, "two"))
			assert.NilError(t, s.Discard(ctx, "two"))
			assert.NilError(t, s.Discard(ctx, "middle"))
			data := filepath.Join(c.Root, "data", "listing")
			left := 1
			for i := 0; i < 500 && left > 0; i++ {
				entries, err := os.ReadDir(data)
				assert.NilError(t, err)
				left = len(entries)
				time.Sleep(10 * time.Millisecond)
			}
			assert.Equal(t, left, 0)
			assert.NilError(t, s.Close(ctx))
		})
	}
}

// TestHomeIsALink: the directory of the backend may be a symbolic link to another disk.
func TestHomeIsALink(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: the store mounts")
	}
	c := config(t)
	other := t.TempDir()
	assert.NilError(t, os.MkdirAll(filepath.Join(c.Root, "data"), 0o700))
	assert.NilError(t, os.Symlink(other, filepath.Join(c.Root, "data", c.Backend)))
	s := open(t, c)
	assert.NilError(t, s.Create(t.Context(), "l", "", store.CreateOptions{}))
	assert.NilError(t, s.Remove(t.Context(), "l"))
	assert.NilError(t, s.Settle(t.Context()))
	left, err := os.ReadDir(other)
	assert.NilError(t, err)
	assert.Equal(t, len(left), 0)
}
