// Package benchsuite is containerd's own benchmark of snapshotters (core/snapshots/benchsuite in containerd's source) with
// two snapshotters more: Strata's, on its socket, and containerd's for btrfs, which that benchmark leaves out.
//
// The benchmark is a test of containerd's and cannot be imported. It is compiled as a file of this package instead: go test
// -overlay puts it, from the module cache, in the place of suite_linux_test.go. scripts/bench snapshotter --suite does so,
// starts Strata on each of its backends and makes a table. By hand, for a Strata that listens on a socket:
//
//	suite=$(go list -m -f '{{.Dir}}' github.com/containerd/containerd/v2)/core/snapshots/benchsuite/benchmark_test.go
//	echo "{\"Replace\": {\"$PWD/suite_linux_test.go\": \"$suite\"}}" >/tmp/overlay.json
//	go test -overlay /tmp/overlay.json -bench . -benchtime 3x -strata.socket /run/strata/snapshotter.sock -overlay.rootPath /var/lib/bench
//
// Each iteration adds 16 layers to those of the one before, so only a fixed number of them is the same work for everybody.
//
// It is a module of its own because containerd's snapshotters need modules that nothing else here does.
package benchsuite
