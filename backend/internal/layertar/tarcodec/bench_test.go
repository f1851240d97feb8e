package tarcodec

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"strata/backend/internal/layertar/tartest"
)

// readOurs reads all entries and their data, and digests the stream.
func readOurs(b *testing.B, data []byte) {
	b.Helper()
	r := NewReader(b.Context(), bytes.NewReader(data), func([]byte) {})
	defer r.Close()
	for {
		_, err := r.Next()
		if errors.Is(err, io.EOF) {
			assert.NilError(b, r.Drain())
			return
		}
		assert.NilError(b, err)
		for r.Left() > 0 {
			p, err := r.Take(BlockLen)
			assert.NilError(b, err)
			p.Release()
		}
	}
}

// readTheirs does the same with archive/tar, the digest in a goroutine of its own, too.
func readTheirs(b *testing.B, data []byte, buf []byte) {
	b.Helper()
	in, out := io.Pipe()
	done := make(chan error)
	go func() {
		_, err := io.CopyBuffer(sha256.New(), struct{ io.Reader }{in}, make([]byte, BlockLen))
		done <- err
	}()
	stream := bufio.NewReaderSize(io.TeeReader(struct{ io.Reader }{bytes.NewReader(data)}, out), BlockLen)
	r := tar.NewReader(stream)
	for {
		_, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		assert.NilError(b, err)
		_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, buf)
		assert.NilError(b, err)
	}
	_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, stream, buf)
	assert.NilError(b, err)
	assert.NilError(b, out.Close())
	assert.NilError(b, <-done)
}

// BenchmarkRead reads whole tars, archive/tar beside: 60,000 files of 1 KiB with a PAX header each, and
// one of 256 MiB.
func BenchmarkRead(b *testing.B) {
	var small []tartest.Member
	for i := range 60000 {
		m := tartest.File(fmt.Sprintf("usr/lib/module%03d/file%05d.js", i/100, i), string(bytes.Repeat([]byte{'x'}, 1024)))
		m.Format, m.ModTime = tar.FormatPAX, time.Unix(1600000000, 123456789)
		small = append(small, m)
	}
	big := []tartest.Member{tartest.File("big", string(make([]byte, 256<<20)))}
	for _, kind := range []struct {
		name    string
		members []tartest.Member
	}{{"many", small}, {"big", big}} {
		data := tartest.Make(b, kind.members...)
		b.Run(kind.name+"/tarcodec", func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				readOurs(b, data)
			}
		})
		b.Run(kind.name+"/archive", func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			buf := make([]byte, BlockLen)
			for b.Loop() {
				readTheirs(b, data, buf)
			}
		})
	}
}
