package benchsuite

import (
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	// What the file imports that takes the place of this one, so that go.mod and go.sum have it.
	_ "github.com/containerd/containerd/v2/core/mount"
	_ "github.com/containerd/containerd/v2/plugins/snapshots/devmapper"
	_ "github.com/containerd/containerd/v2/plugins/snapshots/native"
	_ "github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	_ "github.com/containerd/continuity/fs/fstest"
	_ "github.com/containerd/log"
	_ "github.com/stretchr/testify/assert"
)

// benchmarkSnapshotter is containerd's once its file has taken the place of this one.
func benchmarkSnapshotter(b *testing.B, _ snapshots.Snapshotter) {
	b.Helper()
	b.Skip("needs go test -overlay, as in doc.go")
}
