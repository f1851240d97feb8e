package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/store"
)

// logged returns what is logged until the test ends.
func logged(t *testing.T) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	logger := log.L.Logger
	out, level := logger.Out, logger.Level
	logger.SetOutput(&b)
	logger.SetLevel(logrus.InfoLevel)
	t.Cleanup(func() {
		logger.SetOutput(out)
		logger.SetLevel(level)
	})
	return &b
}

// A first start with a backend that cannot work here makes no store.
func TestFirstStartWithTheWrongBackend(t *testing.T) {
	c := config(t)
	wrong := c
	wrong.Backend = "wrong"
	wrong.New = func(_ context.Context, env backend.Env) (backend.Backend, error) {
		assert.Check(t, env.Fresh)
		return nil, fmt.Errorf("no such file system: %w", errdefs.ErrFailedPrecondition)
	}
	for range 2 {
		_, err := store.Open(t.Context(), wrong)
		assert.ErrorContains(t, err, "no such file system")
	}
	for _, path := range []string{"strata.json", "data/wrong"} {
		_, err := os.Lstat(filepath.Join(c.Root, path))
		assert.Assert(t, os.IsNotExist(err), "%s: %v", path, err)
	}
	s := open(t, c)
	info, err := s.Info(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, info.Backend, "listing")
}

// remade opens a store of c.Root after a change of its settings and closes it again.
func remade(t *testing.T, c store.Config) (info store.StoreInfo, err error) {
	t.Helper()
	s, err := store.Open(t.Context(), c)
	if err != nil {
		return info, err
	}
	info, err = s.Info(t.Context())
	assert.NilError(t, err)
	return info, s.Close(t.Context())
}

// A store without layers takes the backend and the promise that it is opened with.
func TestEmptyStoreIsMadeAnew(t *testing.T) {
	needRoot(t)
	c := config(t)
	first, err := remade(t, c)
	assert.NilError(t, err)
	assert.NilError(t, os.Mkdir(filepath.Join(c.Root, "data/listing/scaffold"), 0o700)) // as backend overlay has one

	said := logged(t)
	other := c
	other.Backend = "other"
	second, err := remade(t, other)
	assert.NilError(t, err)
	assert.Equal(t, second.Backend, "other")
	assert.Equal(t, second.ExactDiffs, true)
	assert.Assert(t, second.UUID != first.UUID)
	_, err = os.Lstat(filepath.Join(c.Root, "data/listing"))
	assert.Assert(t, os.IsNotExist(err), "the old home: %v", err)
	for _, word := range []string{"made the store anew", "backend=other", "old-backend=listing", "old-uuid=" + first.UUID} {
		assert.Assert(t, bytes.Contains(said.Bytes(), []byte(word)), "%s", said)
	}

	other.ExactDiffs, other.ExactDiffsSet = false, true
	third, err := remade(t, other)
	assert.NilError(t, err)
	assert.Equal(t, third.ExactDiffs, false)
	again, err := remade(t, other)
	assert.NilError(t, err)
	assert.Equal(t, again.UUID, third.UUID, "nothing has changed")

	// One that cannot be made anew stays what it was.
	broken := c
	broken.New = func(context.Context, backend.Env) (backend.Backend, error) { return nil, errdefs.ErrNotImplemented }
	_, err = store.Open(t.Context(), broken)
	assert.Assert(t, errdefs.IsNotImplemented(err), "%v", err)
	again, err = remade(t, other)
	assert.NilError(t, err)
	assert.Equal(t, again.UUID, third.UUID)

	// After its last layer is removed it can be made anew.
	s, err := store.Open(t.Context(), other)
	assert.NilError(t, err)
	assert.NilError(t, s.Create(t.Context(), "a", "", store.CreateOptions{}))
	assert.NilError(t, s.Close(t.Context()))
	_, err = store.Open(t.Context(), c)
	assert.ErrorContains(t, err, "holds 1 layer")
	s, err = store.Open(t.Context(), other)
	assert.NilError(t, err)
	assert.NilError(t, s.Remove(t.Context(), "a"))
	assert.NilError(t, s.Settle(t.Context()))
	assert.NilError(t, s.Close(t.Context()))
	_, err = remade(t, c)
	assert.NilError(t, err)
}

// What lies in the old backend's home is never deleted, and keeps the store what it is if it may be a layer.
func TestStoreIsNotMadeAnewOverData(t *testing.T) {
	needRoot(t)
	c := config(t)
	first, err := remade(t, c)
	assert.NilError(t, err)
	other := c
	other.Backend = "other"
	home := filepath.Join(c.Root, "data/listing")
	file := filepath.Join(home, "layer/file")
	assert.NilError(t, os.Mkdir(filepath.Dir(file), 0o700))

	assert.NilError(t, os.WriteFile(file, nil, 0o600))
	_, err = store.Open(t.Context(), other)
	assert.Assert(t, errdefs.IsFailedPrecondition(err), "%v", err)
	assert.ErrorContains(t, err, home+" is not empty")
	assert.NilError(t, os.Remove(file))

	assert.NilError(t, unix.Mount("tmpfs", filepath.Dir(file), "tmpfs", 0, ""))
	_, err = store.Open(t.Context(), other)
	assert.Check(t, errdefs.IsFailedPrecondition(err), "%v", err)
	assert.NilError(t, unix.Unmount(filepath.Dir(file), 0))
	again, err := remade(t, c)
	assert.NilError(t, err)
	assert.Equal(t, again.UUID, first.UUID)

	assert.NilError(t, os.WriteFile(filepath.Join(home, "note"), nil, 0o600)) // as backend zfs has one
	_, err = remade(t, other)
	assert.NilError(t, err)
	_, err = os.Lstat(filepath.Join(home, "note"))
	assert.NilError(t, err)

	other.ReadOnly = true
	other.Backend = "listing"
	_, err = store.Open(t.Context(), other)
	assert.Assert(t, errdefs.IsFailedPrecondition(err), "looking changes nothing: %v", err)
}

// A strata.json that somebody has edited says what to do.
func TestEditedMeta(t *testing.T) {
	needRoot(t)
	c := config(t)
	s, err := store.Open(t.Context(), c)
	assert.NilError(t, err)
	assert.NilError(t, s.Create(t.Context(), "a", "", store.CreateOptions{}))
	assert.NilError(t, s.Close(t.Context()))
	path := filepath.Join(c.Root, "strata.json")
	text, err := os.ReadFile(path)
	assert.NilError(t, err)
	assert.NilError(t, os.WriteFile(path, bytes.ReplaceAll(text, []byte("listing"), []byte("overlay")), 0o600))
	_, err = store.Open(t.Context(), c)
	assert.Assert(t, errdefs.IsDataLoss(err), "%v", err)
	assert.ErrorContains(t, err, "undo the edit")
	assert.NilError(t, os.WriteFile(path, text, 0o600))
	s, err = store.Open(t.Context(), c)
	assert.NilError(t, err)
	assert.NilError(t, s.Remove(t.Context(), "a"))
	assert.NilError(t, s.Settle(t.Context()))
	assert.NilError(t, s.Close(t.Context()))
	assert.NilError(t, os.WriteFile(path, []byte("{}\n"), 0o600))
	_, err = store.Open(t.Context(), c)
	assert.ErrorContains(t, err, "remove the file")
	assert.NilError(t, os.Remove(path))
	open(t, c)
}

// Open says in one line what it found, and what it did about it.
func TestOpenSaysWhatItFound(t *testing.T) {
	needRoot(t)
	c := config(t)
	s, err := store.Open(t.Context(), c)
	assert.NilError(t, err)
	ids := map[string]string{}
	for _, name := range []string{"mounted", "left", "deleted", "rotten", "fine"} {
		assert.NilError(t, s.Create(t.Context(), name, "", store.CreateOptions{}))
		info, err := s.Stat(t.Context(), name)
		assert.NilError(t, err)
		ids[name] = filepath.Join(c.Root, "layers", info.ID)
	}
	_, err = s.Mount(t.Context(), "mounted", store.MountOptions{})
	assert.NilError(t, err)
	assert.NilError(t, s.Close(t.Context()))
	assert.NilError(t, os.Rename(ids["left"], ids["left"]+".part"))
	assert.NilError(t, os.Rename(ids["deleted"], ids["deleted"]+".gone"))
	assert.NilError(t, os.Truncate(ids["rotten"], 1))

	said := logged(t)
	open(t, c)
	assert.Equal(t, bytes.Count(said.Bytes(), []byte("opened the store")), 1, "%s", said)
	for _, field := range []string{
		"backend=listing", "layers=2", "mounts-adopted=1", "unfinished-removed=1", "deletions-resumed=1", "records-unreadable=1", "root=" + c.Root,
	} {
		assert.Check(t, bytes.Contains(said.Bytes(), []byte(field)), "%s: %s", field, said)
	}
}

// A store of which a part is missing, most likely since a disk is not mounted, does not open as one without layers.
func TestPartsMissing(t *testing.T) {
	needRoot(t)
	for name, tc := range map[string]struct {
		part string
		hide func(part string) error
	}{
		"records":       {"layers", hideDir},
		"data":          {"data", hideDir},
		"home":          {"data/listing", hideDir},
		"home is empty": {"data/listing", func(part string) error { return errors.Join(hideDir(part), os.Mkdir(part, 0o700)) }},
	} {
		t.Run(name, func(t *testing.T) {
			c := config(t)
			s, err := store.Open(t.Context(), c)
			assert.NilError(t, err)
			assert.NilError(t, s.Create(t.Context(), "a", "", store.CreateOptions{}))
			assert.NilError(t, s.Close(t.Context()))
			part := filepath.Join(c.Root, tc.part)
			assert.NilError(t, tc.hide(part))
			for range 2 { // the first changes nothing
				_, err = store.Open(t.Context(), c)
				assert.Assert(t, errdefs.IsDataLoss(err), "%v", err)
				assert.ErrorContains(t, err, part)
				assert.ErrorContains(t, err, "mount the disk")
			}
			assert.NilError(t, os.RemoveAll(part))
			assert.NilError(t, os.Rename(part+".hidden", part))
			s = open(t, c)
			_, err = s.Mount(t.Context(), "a", store.MountOptions{})
			assert.NilError(t, err)
			assert.NilError(t, s.Unmount(t.Context(), "a"))
		})
	}
}

func hideDir(part string) error { return os.Rename(part, part+".hidden") }

// Repair keeps the records of layers whose data is all gone while the store is open: a disk may just not be mounted.
func TestRepairWithoutAnyData(t *testing.T) {
	needRoot(t)
	c := config(t)
	s := open(t, c)
	for _, name := range []string{"a", "b"} {
		assert.NilError(t, s.Create(t.Context(), name, "", store.CreateOptions{}))
	}
	home := filepath.Join(c.Root, "data", "listing")
	assert.NilError(t, errors.Join(hideDir(home), os.Mkdir(home, 0o700)))
	found, err := s.Check(t.Context(), store.CheckOptions{Repair: true})
	assert.NilError(t, err)
	assert.Equal(t, len(found), 2)
	for _, f := range found {
		assert.Equal(t, f.Kind, store.FindingMissingData)
		assert.Equal(t, f.Repaired, "")
		assert.Assert(t, bytes.Contains([]byte(f.Detail), []byte("mounted?")), f.Detail)
	}
	assert.NilError(t, errors.Join(os.Remove(home), os.Rename(home+".hidden", home)))
	found, err = s.Check(t.Context(), store.CheckOptions{})
	assert.NilError(t, err)
	assert.Equal(t, len(found), 0, "%v", found)
}
