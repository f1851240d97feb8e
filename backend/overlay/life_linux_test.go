package overlay_test

import (
	"path/filepath"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"strata/backend/internal/loopfs"
	"strata/backend/store"
)

// BenchmarkLife makes, mounts, unmounts and removes a layer in a store, as Docker does for a
// container, and reports milliseconds of each.
func BenchmarkLife(b *testing.B) {
	for _, mode := range []store.SyncMode{store.SyncNone, store.SyncLayer} {
		b.Run(string(mode), func(b *testing.B) {
			root := filepath.Join(loopfs.New(b, "ext4", 1<<30, ""), "store")
			s, err := store.Open(b.Context(), store.Config{Root: root, Backend: "overlay", New: on("ext4").New, Sync: mode})
			assert.NilError(b, err)
			assert.NilError(b, s.Create(b.Context(), "base", "", store.CreateOptions{}))
			var took [4]time.Duration
			for b.Loop() {
				for i, step := range []func() error{
					func() error { return s.Create(b.Context(), "l", "base", store.CreateOptions{}) },
					func() error { _, err := s.Mount(b.Context(), "l", store.MountOptions{}); return err },
					func() error { return s.Unmount(b.Context(), "l") },
					func() error { return s.Remove(b.Context(), "l") },
				} {
					start := time.Now()
					assert.NilError(b, step())
					took[i] += time.Since(start)
				}
			}
			for i, name := range []string{"create", "mount", "unmount", "remove"} {
				b.ReportMetric(float64(took[i].Microseconds())/1000/float64(b.N), name+"-ms")
			}
			assert.NilError(b, s.Close(b.Context()))
		})
	}
}
