package graphdriver

import (
	"context"
	"io"
	"testing"

	"gotest.tools/v3/assert"
)

// zeros is n bytes in writes of 64 KiB, about what a store sends.
func zeros(w io.Writer, n int64) error {
	b := make([]byte, 64<<10)
	for ; n > 0; n -= int64(len(b)) {
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	return nil
}

// BenchmarkStream is the cost of the protocol alone, with Docker's client at the other end.
func BenchmarkStream(b *testing.B) {
	const size = 256 << 20
	r := newRig(b, Options{})
	r.init()
	b.Run("Diff", func(b *testing.B) {
		b.SetBytes(size)
		r.fake.onDiff = func(_ context.Context, w io.Writer) error { return zeros(w, size) }
		for b.Loop() {
			tar, err := r.docker.Stream("GraphDriver.Diff", arguments{ID: id("a")})
			assert.NilError(b, err)
			n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, tar, make([]byte, 32<<10))
			assert.NilError(b, err)
			assert.Equal(b, n, int64(size))
			assert.NilError(b, tar.Close())
		}
	})
	b.Run("ApplyDiff", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			source, sink := io.Pipe()
			go func() { sink.CloseWithError(zeros(sink, size)) }()
			n, err := r.apply("a", "", source)
			assert.NilError(b, err)
			assert.Equal(b, n, int64(size))
		}
	})
	b.Run("Get", func(b *testing.B) {
		for b.Loop() {
			r.ok("Get", arguments{ID: id("a")})
		}
	})
}
