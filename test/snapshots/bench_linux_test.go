package snapshots

import (
	"context"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"gotest.tools/v3/assert"

	"strata/backend/all"
	"strata/backend/backendtest"
)

// BenchmarkSnapshot takes a snapshot through its life, each step a request on the socket.
func BenchmarkSnapshot(b *testing.B) {
	for _, d := range all.Backends() {
		if d.Name != "overlay" {
			continue
		}
		dir := backendtest.LoopFS(b, "ext4", gigabyte, "")
		s, end, err := serve(context.WithoutCancel(b.Context()), dir, d)
		assert.NilError(b, err)
		b.Cleanup(func() { assert.Check(b, end()) })
		step := func(name string, do func(ctx context.Context) error) {
			b.StartTimer()
			err := do(b.Context())
			b.StopTimer()
			assert.NilError(b, err, name)
		}
		for _, op := range []string{"prepare", "commit", "remove"} {
			b.Run(op, func(b *testing.B) {
				for b.Loop() {
					b.StopTimer()
					for _, o := range []struct {
						name string
						do   func(ctx context.Context) error
					}{
						{"prepare", func(ctx context.Context) error { _, err := s.Prepare(ctx, "a", ""); return err }},
						{"commit", func(ctx context.Context) error { return s.Commit(ctx, "c", "a") }},
						{"remove", func(ctx context.Context) error { return s.Remove(ctx, "c") }},
					} {
						if o.name == op {
							b.StartTimer()
						}
						err := o.do(b.Context())
						b.StopTimer()
						assert.NilError(b, err, o.name)
					}
					b.StartTimer()
				}
			})
		}
		_ = step
	}
	var _ snapshots.Snapshotter
}
