//go:build cgo

package benchsuite

import (
	"flag"
	"testing"

	"github.com/containerd/containerd/v2/plugins/snapshots/btrfs"
)

var btrfsRootPath = flag.String("btrfs.rootPath", "", "Root dir for btrfs snapshotter")

// BenchmarkBtrfs is containerd's snapshotter for btrfs. Its subvolumes stay there.
func BenchmarkBtrfs(b *testing.B) {
	if *btrfsRootPath == "" {
		b.Skip("btrfs root dir must be provided")
	}
	s, err := btrfs.NewSnapshotter(*btrfsRootPath)
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	}()
	benchmarkSnapshotter(b, s)
}
