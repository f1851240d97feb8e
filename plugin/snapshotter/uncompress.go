package snapshotter

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
)

// maxWindow is how far back a zstd frame may refer, bytes, all of which is kept in memory: what the program zstd takes without an
// option. RFC 8878 recommends 8 MiB to those who compress. Gzip's is 32 KiB.
const maxWindow = 128 << 20

// uncompress returns the tar in a layer's blob. How that is compressed, it says itself: some have the wrong media type, and
// containerd takes them.
func uncompress(blob io.Reader) (io.ReadCloser, error) {
	const magic = 10 // bytes that DetectCompression looks at
	b := bufio.NewReader(blob)
	start, err := b.Peek(magic)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if compression.DetectCompression(start) != compression.Zstd {
		return compression.DecompressStream(b)
	}
	z, err := zstd.NewReader(b, zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, err
	}
	return zstdReader{z}, nil
}

// checkLayerType returns ErrNotImplemented unless blobs of that type are tars, compressed or not. containerd then asks the next
// differ in its configuration, which may know a program for what is encrypted, say.
func checkLayerType(ctx context.Context, mediaType string) error {
	_, err := images.DiffCompression(ctx, mediaType)
	_, wrapping, wrapped := strings.Cut(mediaType, "+")
	if err != nil || wrapped && wrapping != "gzip" && wrapping != "zstd" {
		return fmt.Errorf("media type %.128q: %w", mediaType, errdefs.ErrNotImplemented)
	}
	return nil
}

// zstdReader says what is wrong with a frame that wants too much.
type zstdReader struct{ frames *zstd.Decoder }

func (z zstdReader) Read(b []byte) (int, error) {
	n, err := z.frames.Read(b)
	if errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		err = fmt.Errorf("the layer takes a zstd window of more than %d MiB (zstd --long=28 or more), compress it with a smaller one: %w: %w",
			maxWindow>>20, err, errdefs.ErrInvalidArgument)
	}
	return n, err
}

func (z zstdReader) Close() error {
	z.frames.Close()
	return nil
}
