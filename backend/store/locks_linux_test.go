package store_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/store"
)

// Check and GC may run at once, also where there are records that neither can read.
func TestCheckBesideGC(t *testing.T) {
	needRoot(t)
	c := config(t)
	s, err := store.Open(t.Context(), c)
	assert.NilError(t, err)
	const rotten = 30
	for i := range rotten {
		assert.NilError(t, s.Create(t.Context(), fmt.Sprint("rotten", i), "", store.CreateOptions{}))
	}
	infos, err := s.List(t.Context())
	assert.NilError(t, err)
	assert.NilError(t, s.Close(t.Context()))
	for _, i := range infos {
		assert.NilError(t, os.Truncate(filepath.Join(c.Root, "layers", i.ID), 3))
	}
	s = open(t, c)
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			_, err := s.Check(t.Context(), store.CheckOptions{})
			assert.Check(t, err)
		})
	}
	group.Go(func() {
		gone, err := s.GC(t.Context(), store.GCOptions{Yes: true})
		assert.Check(t, err)
		assert.Check(t, len(gone) == rotten, "%v", gone)
	})
	group.Wait()
	findings, err := s.Check(t.Context(), store.CheckOptions{})
	assert.NilError(t, err)
	assert.Equal(t, len(findings), 0, "%v", findings)
}

// A second Remove waits for the first and has its outcome, and so has who asks whether the layer is there.
func TestRemoveWaitsForRemove(t *testing.T) {
	needRoot(t)
	s := open(t, config(t))
	ctx := t.Context()
	assert.NilError(t, s.Create(ctx, "a", "", store.CreateOptions{}))
	_, err := s.Apply(ctx, "a", strings.NewReader(string(oneFile(t, "file", "content"))))
	assert.NilError(t, err)

	r, w := io.Pipe() // a stream that does not end when it is told to: nobody reads it
	streamed := make(chan error, 1)
	go func() { streamed <- s.Diff(ctx, "a", "", w) }()
	_, err = io.ReadFull(r, make([]byte, 1))
	assert.NilError(t, err)

	impatient, stop := context.WithTimeout(ctx, 2*time.Second)
	defer stop()
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { first <- s.Remove(impatient, "a") }()
	time.Sleep(100 * time.Millisecond) // until it has begun
	_, err = s.Stat(ctx, "a")
	assert.NilError(t, err, "the name is not forgotten as long as Remove may fail")
	assert.Assert(t, errdefs.IsNotFound(s.Create(ctx, "child", "a", store.CreateOptions{})), "but nothing new may start on the layer")
	hasty, stopHasty := context.WithTimeout(ctx, 10*time.Millisecond)
	defer stopHasty()
	assert.Assert(t, errors.Is(s.Remove(hasty, "a"), context.DeadlineExceeded))
	go func() { second <- s.Remove(ctx, "a") }()
	select {
	case err := <-second:
		t.Fatalf("the second Remove did not wait: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	err = <-first
	assert.Assert(t, errdefs.IsUnavailable(err), "%v", err)
	assert.Equal(t, (<-second).Error(), err.Error())
	_, err = s.Stat(ctx, "a")
	assert.NilError(t, err)
	assert.NilError(t, s.Create(ctx, "child", "a", store.CreateOptions{}), "the layer is usable again")
	assert.NilError(t, s.Remove(ctx, "child"))

	assert.NilError(t, r.Close())
	assert.Assert(t, <-streamed != nil)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			assert.Check(t, s.Remove(ctx, "a"))
			_, err := s.Stat(ctx, "a")
			assert.Check(t, errdefs.IsNotFound(err), "%v", err)
		})
	}
	group.Wait()
}

// A layer that is removed while children are made on it is either their parent or gone, and leaves no record.
func TestCreateBesideRemoveOfParent(t *testing.T) {
	needRoot(t)
	c := config(t)
	s := open(t, c)
	ctx := t.Context()
	for round := range 600 {
		parent := fmt.Sprint("parent", round)
		assert.NilError(t, s.Create(ctx, parent, "", store.CreateOptions{}))
		var group sync.WaitGroup
		children := make([]string, 8)
		for i := range children {
			children[i] = fmt.Sprint("child", round, "-", i)
			group.Go(func() {
				err := s.Create(ctx, children[i], parent, store.CreateOptions{})
				assert.Check(t, err == nil || errdefs.IsNotFound(err), "%v", err)
			})
			if i == len(children)/2 {
				group.Go(func() {
					err := s.Remove(ctx, parent)
					assert.Check(t, err == nil || errdefs.IsFailedPrecondition(err), "%v", err)
				})
			}
		}
		group.Wait()
		for _, name := range slices.Concat(children, []string{parent}) {
			assert.NilError(t, s.Remove(ctx, name))
		}
	}
	assert.NilError(t, s.Settle(ctx))
	left, err := os.ReadDir(filepath.Join(c.Root, "layers"))
	assert.NilError(t, err)
	assert.Equal(t, len(left), 0, "%v", left)
}

// hang covers dir with a file system that answers no request until the returned function is called.
func hang(t *testing.T, dir string) (wake func()) {
	t.Helper()
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("there is no FUSE: %v", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", f.Fd())
	assert.NilError(t, unix.Mount("hung", dir, "fuse", 0, options))
	return func() {
		assert.Check(t, f.Close()) // which ends all requests
		assert.Check(t, unix.Unmount(dir, unix.MNT_DETACH))
	}
}

// An additional store that does not answer stops nobody who wants a layer of our own.
func TestHungAdditionalStore(t *testing.T) {
	needRoot(t)
	other := config(t)
	o := open(t, other)
	ctx := t.Context()
	assert.NilError(t, o.Create(ctx, "base", "", store.CreateOptions{}))
	assert.NilError(t, o.Create(ctx, "leaf", "base", store.CreateOptions{})) // which seals the base
	c := config(t)
	c.Stores = []string{other.Root}
	s := open(t, c)
	assert.NilError(t, s.Create(ctx, "own", "base", store.CreateOptions{}))

	wake := hang(t, filepath.Join(other.Root, "layers"))
	awake := false
	defer func() {
		if !awake {
			wake()
		}
	}()
	short, stop := context.WithTimeout(ctx, 300*time.Millisecond)
	defer stop()
	_, err := s.Stat(short, "unknown")
	assert.Assert(t, errdefs.IsUnavailable(err) && errors.Is(err, context.DeadlineExceeded), "%v", err)
	assert.ErrorContains(t, err, other.Root)
	asking := make(chan error, 1)
	go func() { _, err := s.Stat(ctx, "unknown"); asking <- err }()
	time.Sleep(50 * time.Millisecond) // until it has begun

	done := make(chan error, 1)
	go func() {
		_, err := s.Mount(ctx, "own", store.MountOptions{})
		err = errors.Join(err, s.Unmount(ctx, "own"), s.Create(ctx, "more", "own", store.CreateOptions{}), s.Remove(ctx, "more"))
		_, statErr := s.Stat(ctx, "base") // known already
		_, infoErr := s.Info(ctx)
		done <- errors.Join(err, statErr, infoErr)
	}()
	select {
	case err := <-done:
		assert.NilError(t, err)
	case <-time.After(5 * time.Second):
		wake()
		awake = true
		t.Fatal("calls for our own layers wait for the additional store")
	}
	wake()
	awake = true
	assert.Assert(t, errdefs.IsNotFound(<-asking))

	assert.NilError(t, o.Create(ctx, "twig", "leaf", store.CreateOptions{})) // which seals the leaf
	_, err = s.Stat(ctx, "leaf")
	assert.NilError(t, err, "it is asked again")
}

// Lookups of layers that additional stores may have, beside changes there.
func TestAdditionalStoreChangesBesideLookups(t *testing.T) {
	needRoot(t)
	other := config(t)
	o := open(t, other)
	c := config(t)
	c.Stores = []string{other.Root}
	s := open(t, c)
	ctx := t.Context()
	const layers = 20
	var group sync.WaitGroup
	group.Go(func() {
		parent := ""
		for i := range layers {
			name := fmt.Sprint(i)
			assert.Check(t, o.Create(ctx, name, parent, store.CreateOptions{}))
			parent = name
		}
	})
	for range 3 {
		group.Go(func() {
			for i := range layers - 1 {
				for {
					if _, err := s.Stat(ctx, fmt.Sprint(i)); err == nil {
						break
					}
					assert.Check(t, ctx.Err())
				}
			}
			_, err := s.List(ctx)
			assert.Check(t, err)
		})
	}
	group.Wait()
}

// stuck is a backend whose Remove does not notice that it is told to stop.
type stuck struct {
	backend.Backend
	begun, end chan struct{}
}

func (b *stuck) Remove(context.Context, backend.Layer) error {
	close(b.begun)
	<-b.end
	return context.Canceled
}

// Close does not take longer than its context, and nobody else has the store before it is closed.
func TestCloseHonoursContext(t *testing.T) {
	needRoot(t)
	c := config(t)
	b := &stuck{begun: make(chan struct{}), end: make(chan struct{})}
	c.New = func(ctx context.Context, env backend.Env) (_ backend.Backend, err error) {
		b.Backend, err = newListing(ctx, env)
		return b, err
	}
	s, err := store.Open(t.Context(), c)
	assert.NilError(t, err)
	assert.NilError(t, s.Create(t.Context(), "a", "", store.CreateOptions{}))
	assert.NilError(t, s.Remove(t.Context(), "a"))
	<-b.begun
	short, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	assert.Assert(t, errors.Is(s.Close(short), context.DeadlineExceeded))
	c.New = newListing
	_, err = store.Open(t.Context(), c)
	assert.Assert(t, errdefs.IsUnavailable(err), "%v", err)
	close(b.end)
	assert.NilError(t, s.Close(t.Context()))
	open(t, c)
}
