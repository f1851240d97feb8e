package keeper

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"gotest.tools/v3/assert"

	"strata/backend/store"
)

// dockerKnows makes Docker's record of a layer or of a container.
func dockerKnows(t *testing.T, db, kind, file, layer string, when time.Time) {
	t.Helper()
	path := filepath.Join(db, kind, "of "+layer, file)
	assert.NilError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	assert.NilError(t, os.WriteFile(path, []byte(layer), 0o600))
	assert.NilError(t, os.Chtimes(path, when, when))
}

// A store that is younger than what Docker knows, and does not have it, says so in docker info and the log.
func TestLostStoreIsNoticed(t *testing.T) {
	made := time.Now().Add(-time.Hour)
	before, after := made.Add(-time.Minute), made.Add(time.Minute)
	for _, tc := range []struct {
		name    string
		typed   string // of the driver, as typed
		managed bool
		known   func(t *testing.T, db string)
		says    string // "" for no warning
	}{
		{"nothing", "strata", false, func(*testing.T, string) {}, ""},
		{"images and containers", "strata", false, func(t *testing.T, db string) {
			dockerKnows(t, db, "sha256", "cache-id", "lost1", before)
			dockerKnows(t, db, "sha256", "cache-id", "lost2", before)
			dockerKnows(t, db, "sha256", "cache-id", "kept", before)
			dockerKnows(t, db, "sha256", "cache-id", "lost3", after)
			dockerKnows(t, db, "mounts", "mount-id", "lost4", before)
		}, "2 of images and 1 of containers"},
		{"the store has all", "strata", false, func(t *testing.T, db string) {
			dockerKnows(t, db, "sha256", "cache-id", "kept", before)
		}, ""},
		{"nothing that is older", "strata", false, func(t *testing.T, db string) {
			dockerKnows(t, db, "mounts", "mount-id", "lost", after)
		}, ""},
		{"a name with slashes", "registry:5000/x/strata:latest", false, func(t *testing.T, db string) {
			dockerKnows(t, db, "mounts", "mount-id", "lost", before)
		}, "1 of containers"},
		{"a managed plugin", "strata:latest", true, func(t *testing.T, db string) {
			dockerKnows(t, db, "mounts", "mount-id", "lost", before)
		}, "1 of containers"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := t.TempDir()
			home, f := filepath.Join(root, tc.typed), &fake{info: store.StoreInfo{Root: "/store", Created: made}}
			o := options(t, filepath.Join(t.TempDir(), "strata"))
			if tc.managed {
				home, o.Place.DockerRoot = "/propagated/"+tc.typed, root
			}
			db := filepath.Join(root, "image", tc.typed, "layerdb")
			assert.NilError(t, os.MkdirAll(db, 0o700))
			tc.known(t, db)
			f.stat = func(name string) error {
				if strings.HasPrefix(name, "lost") {
					return fmt.Errorf("layer: %w", errdefs.ErrNotFound)
				}
				return nil
			}
			k := over(t, o, func(context.Context, store.Config) (*fake, error) { return f, nil })
			logger, hook := logtest.NewNullLogger()
			ctx := log.WithLogger(t.Context(), logrus.NewEntry(logger))
			assert.NilError(t, k.Init(ctx, Init{Home: home}))
			var logged string
			for _, e := range hook.AllEntries() {
				if strings.Contains(e.Message, "Docker has older layers") {
					logged += e.Message
				}
			}
			shown := strings.Join(k.Warnings(ctx), "\n")
			assert.Equal(t, shown, logged)
			assert.Equal(t, shown != "", tc.says != "", shown)
			assert.Assert(t, strings.Contains(shown, tc.says), shown)
		})
	}
}
