// Package loopfs makes file systems on loop devices, and ZFS pools on files, for tests. It lies below
// the conformance suite, so that the packages that backends are made of can be tested on real file
// systems, too. The program does not contain it.
package loopfs

// Small returns the smallest size of a file system of a kind that [New] knows, bytes, with a little
// air: mkfs.xfs 6.1 asks for 300 MiB and mkfs.btrfs 6.2 for 109 MiB, and ZFS keeps half of a small
// pool for itself (spa_misc.c, spa_min_slop).
func Small(kind string) int64 {
	return map[string]int64{
		"btrfs": 128 << 20, "ext4": 64 << 20, "tmpfs": 64 << 20, "xfs": 320 << 20, "zfs": 256 << 20,
	}[kind]
}
