package snapshotter

import (
	"bytes"
	"encoding/binary"
	"io"
	"runtime"
	"testing"

	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/diff/proxy"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"gotest.tools/v3/assert"
)

// frame is a zstd frame that holds text, at most 128 KiB, as it is. window is a Window_Descriptor (RFC 8878, 3.1.1.1.2).
func frame(window byte, text []byte) []byte {
	return append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, window}, block(text)...)
}

// wholeFrame is one whose window is all that it says to hold.
func wholeFrame(size uint64, text []byte) []byte {
	return append(binary.LittleEndian.AppendUint64([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0}, size), block(text)...)
}

func block(text []byte) []byte {
	head := binary.LittleEndian.AppendUint32(nil, 1|uint32(len(text))<<3)
	return append(head[:3], text...)
}

// windowOf is the Window_Descriptor of a power of two.
func windowOf(log byte) byte { return (log - 10) << 3 }

// TestApplyRefuses, through containerd's own client: what is for another differ, and what takes too much memory.
func TestApplyRefuses(t *testing.T) {
	r, b := newRig(t, Options{}), newBlobs(t)
	client, ok := proxy.NewDiffApplier(diffapi.NewDiffClient(dial(t, r.Snapshotter, NewDiffer(r.Snapshotter, b), nil))).(diff.Applier)
	assert.Assert(t, ok)
	text := layer(t, "a")
	const docker = "application/vnd.docker.image.rootfs.diff.tar"
	for _, tc := range []struct {
		mediaType string
		blob      []byte
		is        func(error) bool // nil: it is taken
	}{
		{ocispec.MediaTypeImageLayer, text, nil},
		{ocispec.MediaTypeImageLayerZstd, frame(windowOf(23), text), nil},
		{ocispec.MediaTypeImageLayerZstd, frame(windowOf(27), text), nil},
		{ocispec.MediaTypeImageLayerZstd, frame(windowOf(27)+1, text), errdefs.IsInvalidArgument},
		{ocispec.MediaTypeImageLayerZstd, frame(windowOf(29), text), errdefs.IsInvalidArgument},
		{ocispec.MediaTypeImageLayerZstd, frame(windowOf(41), text), errdefs.IsInvalidArgument},
		{ocispec.MediaTypeImageLayerZstd, wholeFrame(1<<29, text), errdefs.IsInvalidArgument},
		{ocispec.MediaTypeImageLayerZstd, append(frame(windowOf(20), text[:512]), frame(windowOf(29), text[512:])...), errdefs.IsInvalidArgument},
		{ocispec.MediaTypeImageLayer, frame(windowOf(29), text), errdefs.IsInvalidArgument},
		{docker, text, nil},
		{docker, zip(t, text), nil},
		{docker + ".zstd", frame(windowOf(23), text), nil},
		{docker + ".gzip", text, nil},
		{ocispec.MediaTypeImageLayerNonDistributableGzip, zip(t, text), nil}, //nolint:staticcheck // there are images with it
		{"", text, errdefs.IsNotImplemented},
		{"application/octet-stream", text, errdefs.IsNotImplemented},
		{"application/vnd.oci.image.layer.v1.tar+encrypted", text, errdefs.IsNotImplemented},
		{"application/vnd.oci.image.layer.v1.tar+gzip+encrypted", zip(t, text), errdefs.IsNotImplemented},
		{"application/vnd.oci.image.layer.v1.tar+zstd+encrypted", text, errdefs.IsNotImplemented},
		{"application/vnd.oci.image.layer.v1.tar+gzip+", zip(t, text), errdefs.IsNotImplemented},
		{docker + ".gzip+encrypted", zip(t, text), errdefs.IsNotImplemented},
		{docker + "+encrypted", text, errdefs.IsNotImplemented},
	} {
		mounts, err := r.Prepare(t.Context(), "k", "")
		assert.NilError(t, err)
		desc := b.add(tc.mediaType, tc.blob)
		got, err := client.Apply(t.Context(), desc, mounts)
		if tc.is == nil {
			assert.NilError(t, err, "%s", tc.mediaType)
			assert.Equal(t, got.Size, int64(len(text)))
		} else {
			assert.Assert(t, tc.is(err), "%s: %v", tc.mediaType, err)
		}
		if errdefs.IsInvalidArgument(err) {
			assert.ErrorContains(t, err, "zstd window of more than 128 MiB")
		}
		if errdefs.IsNotImplemented(err) { // the next differ unpacks into the snapshot
			assert.NilError(t, r.Commit(t.Context(), "done", "k"))
			assert.NilError(t, r.Remove(t.Context(), "done"))
			continue
		}
		assert.NilError(t, r.Remove(t.Context(), "k"))
	}
}

// TestUncompressInBounds: a blob takes memory for what it refers back to, not for what comes out.
func TestUncompressInBounds(t *testing.T) {
	const times, most = 512, 16 << 20
	zeros := make([]byte, 128<<10-1)
	for name, blob := range map[string][]byte{
		"gzip": bytes.Repeat(zip(t, zeros), times),
		"zstd": bytes.Repeat(frame(windowOf(20), zeros), times),
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			r, err := uncompress(bytes.NewReader(blob))
			assert.NilError(t, err)
			n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, make([]byte, 64<<10))
			assert.NilError(t, err)
			assert.NilError(t, r.Close())
			assert.Equal(t, n, int64(times*len(zeros)))
			runtime.ReadMemStats(&after)
			assert.Assert(t, after.TotalAlloc-before.TotalAlloc < most, "%d bytes", after.TotalAlloc-before.TotalAlloc)
		})
	}
}
