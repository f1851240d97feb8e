package benchsuite

import (
	"flag"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

var strataSocket = flag.String("strata.socket", "", "`path` of Strata's socket for containerd")

// BenchmarkStrata asks Strata as containerd would. The snapshots stay there.
func BenchmarkStrata(b *testing.B) {
	if *strataSocket == "" {
		b.Skip("Strata's socket must be provided")
	}
	conn, err := grpc.NewClient("unix://"+*strataSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := conn.Close(); err != nil {
			b.Error(err)
		}
	}()
	benchmarkSnapshotter(b, proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "strata"))
}
