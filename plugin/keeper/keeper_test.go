package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/store"
	"strata/plugin/config"
)

// fake is a store in memory. A hook that is nil does nothing.
type fake struct {
	info  store.StoreInfo
	stat  func(name string) error
	close func(ctx context.Context) error
	bad   int

	sync   atomic.Value // store.SyncMode of the last SetSync
	closed atomic.Int32
}

func (f *fake) Info(context.Context) (store.StoreInfo, error) { return f.info, nil }

func (f *fake) Stat(_ context.Context, name string) (store.Info, error) {
	if f.stat != nil {
		return store.Info{}, f.stat(name)
	}
	return store.Info{}, nil
}

func (f *fake) Damaged() int { return f.bad }

func (f *fake) SetSync(m store.SyncMode) error {
	f.sync.Store(m)
	return nil
}

func (f *fake) Close(ctx context.Context) error {
	f.closed.Add(1)
	if f.close != nil {
		return f.close(ctx)
	}
	return nil
}

type thickOptions struct {
	Color string `option:"color" help:"An option that a restart changes."`
}

// options are those of a keeper of a store in root, which is made.
func options(t *testing.T, root string, pairs ...string) Options {
	t.Helper()
	assert.NilError(t, os.MkdirAll(root, 0o700))
	table := config.NewTable(backend.Driver{Name: "thick", Config: func() any { return &thickOptions{} }})
	flags, err := config.FromFlags(append(pairs, "root="+root))
	assert.NilError(t, err)
	settings, err := table.Resolve(flags)
	assert.NilError(t, err)
	return Options{
		Table: table, Sources: []config.Source{flags}, Settings: settings, Place: Place{Root: root, HostRoot: "/host/strata"},
		Restart: config.RestartService, Version: "test",
	}
}

// over makes a keeper that is closed when the test ends.
func over(t *testing.T, o Options, open func(context.Context, store.Config) (*fake, error)) *Keeper[*fake] {
	t.Helper()
	k := Over(o, open)
	t.Cleanup(func() { assert.Check(t, k.Close(context.Background())) })
	return k
}

// keep makes a keeper of f.
func keep(t *testing.T, o Options, f *fake) *Keeper[*fake] {
	t.Helper()
	return over(t, o, func(context.Context, store.Config) (*fake, error) { return f, nil })
}

// TestReasonWhileItCannotBeOpened: every caller is told why there is no store, until it opens.
func TestReasonWhileItCannotBeOpened(t *testing.T) {
	broken := errors.New("the disk is on fire")
	f := &fake{}
	k := over(t, options(t, t.TempDir()), func(context.Context, store.Config) (*fake, error) { return f, broken })
	told := func(want string) {
		t.Helper()
		_, err := k.Store(t.Context())
		assert.ErrorContains(t, err, want)
		assert.Assert(t, k.Current() == nil)
		_, err = k.SetOptions(t.Context(), map[string]string{"sync": "none"})
		assert.Assert(t, errdefs.IsUnavailable(err), "%v", err)
		assert.ErrorContains(t, err, "--root /host/strata")
	}
	told("/host/strata holds no store that a dockerd has used")
	_, err := k.Store(t.Context())
	assert.ErrorIs(t, err, ErrNoInit)
	assert.Assert(t, !k.Begun())
	assert.Assert(t, errdefs.IsFailedPrecondition(err), "%v", err)

	assert.ErrorIs(t, k.Init(t.Context(), Init{Home: "/h"}), broken)
	told("docker's last GraphDriver.Init failed: the disk is on fire")
	assert.ErrorContains(t, k.Init(t.Context(), Init{Home: "/h", Opts: []string{"nope=1"}}), "known ones")
	told("docker's last GraphDriver.Init failed: --storage-opt: option \"nope\" is unknown")
	assert.Assert(t, errdefs.IsInvalidArgument(k.Init(t.Context(), Init{Home: "h"})))

	broken = nil
	assert.NilError(t, k.Init(t.Context(), Init{Home: "/h"}))
	assert.Assert(t, k.Begun())
	st, err := k.Store(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, st, f)
}

// TestResume: a store that an Init has opened is opened by later processes without one, as it was.
func TestResume(t *testing.T) {
	root := t.TempDir()
	init := Init{Home: "/h", Opts: []string{"sync=none"}, UIDMaps: []backend.IDRange{{Host: 7, Size: 9}}, GIDMaps: []backend.IDRange{{Host: 7, Size: 9}}}
	k := keep(t, options(t, root), &fake{})
	assert.NilError(t, k.Init(t.Context(), init))
	assert.NilError(t, k.Close(t.Context()))

	var with store.Config
	broken := errors.New("the disk is on fire")
	k = over(t, options(t, root), func(_ context.Context, c store.Config) (*fake, error) {
		with = c
		return &fake{}, broken
	})
	sync := func() (is config.Setting) {
		list, err := k.Options(t.Context())
		assert.NilError(t, err)
		for _, is = range list {
			if is.Key == "sync" {
				break
			}
		}
		assert.Assert(t, is.Next == nil)
		return is
	}
	assert.Equal(t, sync().Value, "none", "before the store is opened")
	assert.Equal(t, sync().Source, config.SourceStorageOpt)
	_, err := k.Session(t.Context())
	assert.ErrorIs(t, err, broken)
	assert.Equal(t, sync().Value, "none", "after the store has failed to open")
	broken = nil
	s, err := k.Session(t.Context())
	assert.NilError(t, err)
	assert.DeepEqual(t, s.Init, init)
	assert.DeepEqual(t, s.Init.IDMap(), &backend.IDMap{UIDs: init.UIDMaps, GIDs: init.GIDMaps})
	assert.Equal(t, with.Sync, store.SyncNone)
	assert.Equal(t, with.Root, root)
	assert.Equal(t, sync().Value, "none", "while the store is open")
}

// TestWithoutInit: where containerd is served the store opens without an Init, and one may come later.
func TestWithoutInit(t *testing.T) {
	f := &fake{}
	k := keep(t, options(t, t.TempDir(), "snapshotter-socket=/run/s.sock"), f)
	s, err := k.Session(t.Context())
	assert.NilError(t, err)
	assert.Assert(t, s.Init.IDMap() == nil)
	assert.Equal(t, len(k.Warnings(t.Context())), 0)
	_, err = os.Stat(k.initFile())
	assert.ErrorIs(t, err, os.ErrNotExist)
	assert.NilError(t, k.Init(t.Context(), Init{Home: "/h", Opts: []string{"sync=none"}}))
	assert.Equal(t, f.sync.Load(), store.SyncNone)
	assert.Equal(t, k.Current().Init.Home, "/h")
	assert.Equal(t, s.Init.Home, "", "a session never changes")
}

// TestRefuse: the first reason is everybody's answer, also where an earlier process had the store open.
func TestRefuse(t *testing.T) {
	root := t.TempDir()
	assert.NilError(t, saveInit(filepath.Join(root, InitFile), "test", Init{Home: "/h"}))
	k := keep(t, options(t, root), &fake{})
	assert.NilError(t, k.Refused())
	wrong := errors.New("option sync is wrong")
	k.Refuse(wrong)
	k.Refuse(errors.New("and another thing"))
	assert.ErrorIs(t, k.Refused(), wrong)
	assert.ErrorIs(t, k.Init(t.Context(), Init{Home: "/h"}), wrong)
	_, err := k.Store(t.Context())
	assert.ErrorIs(t, err, wrong)
	_, err = k.Options(t.Context())
	assert.ErrorIs(t, err, wrong)
	_, err = k.SetOptions(t.Context(), nil)
	assert.ErrorIs(t, err, wrong)
}

// TestReconfigure: another Init changes at once what the tags call live, says what waits for a
// restart, and changes nothing if it is refused.
func TestReconfigure(t *testing.T) {
	f := &fake{bad: 1}
	o := options(t, t.TempDir())
	o.Place.Doubt = "the root is doubtful"
	var levels []string
	o.Apply = func(s *config.Settings) error {
		levels = append(levels, s.LogLevel)
		return nil
	}
	k := keep(t, o, f)
	with := func(opts ...string) error { return k.Init(t.Context(), Init{Home: "/h", Opts: opts}) }
	value := func(key string) string {
		list, err := k.Options(t.Context())
		assert.NilError(t, err)
		for _, s := range list {
			if s.Key == key {
				return s.Value + " from " + s.Source
			}
		}
		return ""
	}
	assert.NilError(t, with())
	assert.NilError(t, with("sync=none", "log-level=debug", "thick.color=red"))
	assert.Equal(t, f.sync.Load(), store.SyncNone)
	assert.DeepEqual(t, levels, []string{"info", "debug"})
	assert.Equal(t, value("sync"), "none from --storage-opt")
	assert.Equal(t, value("thick.color"), " from default")
	warnings := k.Warnings(t.Context())
	assert.Equal(t, len(warnings), 3, "%v", warnings)
	assert.Equal(t, warnings[0], "the root is doubtful")
	assert.Assert(t, strings.Contains(warnings[1], "changed thick.color while the store was open; restart strata serve"), warnings[1])

	assert.ErrorContains(t, with("exact-diffs=false"), "the store has exact-diffs for ever")
	assert.ErrorContains(t, with("sync=maybe"), "allowed are")
	assert.Equal(t, value("sync"), "none from --storage-opt")
	assert.DeepEqual(t, k.Current().Init.Opts, []string{"sync=none", "log-level=debug", "thick.color=red"})
	saved, err := loadInit(k.initFile())
	assert.NilError(t, err)
	assert.DeepEqual(t, saved, k.Current().Init)

	assert.NilError(t, with())
	assert.Equal(t, f.sync.Load(), store.SyncLayer)
	assert.Equal(t, len(k.Warnings(t.Context())), 2)
}

// TestClose: the store is closed within the time that there is, and nobody opens it again.
func TestClose(t *testing.T) {
	f := &fake{close: func(ctx context.Context) error {
		<-ctx.Done()
		return fmt.Errorf("a deletion goes on: %w", context.Cause(ctx))
	}}
	k := keep(t, options(t, t.TempDir()), f)
	assert.NilError(t, k.Init(t.Context(), Init{Home: "/h"}))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	assert.ErrorIs(t, k.Close(ctx), context.DeadlineExceeded)
	assert.Assert(t, k.Current() == nil)
	assert.Assert(t, errdefs.IsUnavailable(k.Init(t.Context(), Init{Home: "/h"})))
	_, err := k.Store(t.Context())
	assert.ErrorContains(t, err, "shutting down")
	f.close = nil
	assert.NilError(t, k.Close(t.Context()))
	assert.NilError(t, k.Close(t.Context()))
	assert.Equal(t, f.closed.Load(), int32(2), "what is closed is not closed again")
}

// TestCloseBesideAnOpening: who closes a store that is opening waits for it no longer than he has time.
func TestCloseBesideAnOpening(t *testing.T) {
	opening, release := make(chan struct{}), make(chan struct{})
	k := over(t, options(t, t.TempDir()), func(context.Context, store.Config) (*fake, error) {
		close(opening)
		<-release
		return &fake{}, nil
	})
	opened := make(chan error, 1)
	go func() { opened <- k.Init(t.Context(), Init{Home: "/h"}) }()
	<-opening
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	assert.ErrorContains(t, k.Close(ctx), "wait for the store to open")
	_, err := k.Options(t.Context()) // which no opening store keeps waiting
	assert.NilError(t, err)
	close(release)
	assert.NilError(t, <-opened)
}

// TestCallersAtOnce: the three front ends and Docker's Init share one store.
func TestCallersAtOnce(t *testing.T) {
	var opened atomic.Int32
	f := &fake{}
	k := over(t, options(t, t.TempDir(), "snapshotter-socket=/run/s.sock"), func(context.Context, store.Config) (*fake, error) {
		if opened.Add(1) == 1 {
			return nil, errors.New("the first one fails")
		}
		return f, nil
	})
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			for round := range 20 {
				switch (n + round) % 4 {
				case 0:
					err := k.Init(t.Context(), Init{Home: "/h", Opts: []string{[]string{"sync=none", "sync=layer"}[round%2]}})
					assert.Check(t, err == nil || strings.Contains(err.Error(), "the first one"), "%v", err)
				case 1:
					s, err := k.Session(t.Context())
					assert.Check(t, err == nil && s.Store == f || err != nil && strings.Contains(err.Error(), "the first one"), "%v", err)
				case 2:
					_, err := k.SetOptions(t.Context(), map[string]string{"log-level": "warn"})
					assert.Check(t, err == nil || errdefs.IsUnavailable(err), "%v", err)
				case 3:
					_, err := k.Options(t.Context())
					assert.Check(t, err)
					k.Warnings(t.Context())
				}
			}
		})
	}
	wg.Wait()
	assert.Equal(t, opened.Load(), int32(2), "it is opened once, and again after it failed")
	list, err := k.Options(t.Context())
	assert.NilError(t, err)
	for _, s := range list {
		assert.Assert(t, s.Key != "sync" || s.Value == string(f.sync.Load().(store.SyncMode)), "%v", s)
	}
}
