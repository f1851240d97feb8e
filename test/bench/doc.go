// Command bench measures Strata against dockerd's own driver for a file system and prints a table.
//
// scripts/bench builds and runs it; `bench -help` lists its flags. Every contender has a dockerd of
// its own on a private host (package strata/test/e2e/engine), with a file system of its own on the
// same disk, and they take turns within each round, so that a noisy machine is noisy for all. What
// counts are the ratios of the medians. Nothing is dropped from the page cache, and sync(2) runs
// before each measurement so that nobody pays for what another wrote.
//
// The contenders:
//
//	overlay2           dockerd's own on ext4; on btrfs and ZFS its drivers of those names
//	layer              Strata as installed: sync=layer, exact diffs
//	none               the same with sync=none, which is as durable as dockerd's own
//	inexact            sync=none without exact diffs
//	null, null-inexact throw every layer away: as fast as any driver can be (package null); for
//	                   containerd the same is a proxy that remembers names and digests blobs
//
// Below Docker, the same layers are applied, compared and written out by the plugin over its
// socket and, in this process, by the code that dockerd uses (docker/docker/pkg/archive). The level scale
// lets one store grow to 1000 layers: what the plugin then does is to take as long as before.
//
// The level suite is containerd's own benchmark of snapshotters (package strata/test/benchsuite): 16
// layers of ten files of 1 MiB, written, changed and removed, then 16 more on top of them, three times
// over. Each snapshotter of containerd's, and a Strata of its own for each backend and sync, begins with
// a new file system, and nothing is removed. A process or a mount that stays behind is an error.
package main
