package snapshots

import (
	"context"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"gotest.tools/v3/assert"

	"strata/backend/all"
	"strata/backend/backendtest"
)

// BenchmarkOverlay takes snapshots through their lives, each step a request on the socket, and measures one of the steps.
func BenchmarkOverlay(b *testing.B) {
	driver := all.Backends()[0]
	assert.Equal(b, driver.Name, "overlay")
	s, end, err := serve(context.WithoutCancel(b.Context()), backendtest.LoopFS(b, "ext4", gigabyte, ""), driver)
	assert.NilError(b, err)
	b.Cleanup(func() { assert.Check(b, end()) })
	life := []struct {
		step string
		do   func(context.Context, snapshots.Snapshotter) error
	}{
		{"prepare", func(ctx context.Context, s snapshots.Snapshotter) error {
			_, err := s.Prepare(ctx, "a", "")
			return err
		}},
		{"commit", func(ctx context.Context, s snapshots.Snapshotter) error { return s.Commit(ctx, "c", "a") }},
		{"remove", func(ctx context.Context, s snapshots.Snapshotter) error { return s.Remove(ctx, "c") }},
	}
	for _, measured := range life {
		b.Run(measured.step, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				for _, l := range life {
					if l.step == measured.step {
						b.StartTimer()
					}
					err := l.do(b.Context(), s)
					b.StopTimer()
					assert.NilError(b, err, l.step)
				}
				b.StartTimer()
			}
		})
	}
}
