package store_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"strata/backend/backendtest"
	"strata/backend/internal/failpoint"
	"strata/backend/store"
)

// TestCreateThatCannotBeTakenBack holds that the data of a layer is not deleted while its record says that it is ready: ZFS renames no
// record where the disk is full.
func TestCreateThatCannotBeTakenBack(t *testing.T) {
	needRoot(t)
	for _, test := range []struct {
		name, point string
		hit         int // of the point that fails
		back        int // layers that are there, whole, after the next Open
	}{
		{"its record has no name yet", "store.record.written", 2, 0},
		{"its record has its name", "store.create.named", 1, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := store.Config{Root: filepath.Join(t.TempDir(), "s"), Backend: "dir", New: backendtest.NewDir}
			s, err := store.Open(t.Context(), cfg)
			assert.NilError(t, err)
			cause, blocked, hits := errors.New("disk full"), "", 0
			disarm := failpoint.Arm(test.point, func() error {
				if hits++; hits != test.hit {
					return nil
				}
				entries, err := os.ReadDir(filepath.Join(cfg.Root, "layers"))
				for _, e := range entries {
					blocked = filepath.Join(cfg.Root, "layers", strings.TrimSuffix(e.Name(), ".new")+".gone")
				}
				return errors.Join(cause, err, os.MkdirAll(filepath.Join(blocked, "in the way"), 0o700))
			})
			err = s.Create(t.Context(), "l", "", store.CreateOptions{})
			disarm()
			assert.ErrorIs(t, err, cause)
			_, err = s.Stat(t.Context(), "l")
			assert.ErrorContains(t, err, "not found")
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			assert.ErrorContains(t, s.Settle(ctx), "still not deleted")
			assert.NilError(t, s.Close(t.Context()))

			assert.NilError(t, os.RemoveAll(blocked))
			s, err = store.Open(t.Context(), cfg)
			assert.NilError(t, err)
			defer func() { assert.NilError(t, s.Close(t.Context())) }()
			found, err := s.Check(t.Context(), store.CheckOptions{})
			assert.NilError(t, err)
			assert.Equal(t, len(found), 0, "%v", found)
			infos, err := s.List(t.Context())
			assert.NilError(t, err)
			assert.Equal(t, len(infos), test.back, "%v", infos)
			if test.back > 0 {
				assert.NilError(t, s.Remove(t.Context(), "l"))
			}
			assert.NilError(t, s.Settle(t.Context()))
			data, err := os.ReadDir(filepath.Join(cfg.Root, "data", "dir"))
			assert.NilError(t, err)
			assert.Equal(t, len(data), 0, "%v", data)
		})
	}
}
