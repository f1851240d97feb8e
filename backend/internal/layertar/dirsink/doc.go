// Package dirsink stores the entries of a layer tar in a directory, and reads their contents back.
//
// [New] is the [backend.Sink]. The goroutine that calls it makes directories and hard links, and hands
// all other files to writers. Data is not copied on the way: the writers share the blocks of the
// stream. [Apply] is package unpack with such a sink.
//
// Everything is made relative to open directories. A symlink within a path is followed as if the
// layer's root were "/", which is what Docker's chroot does; the last component is never followed.
// What is there already is replaced, unless it and the entry are both directories: then the one that
// is there gets the properties of the entry, and none but those. Directories beyond PATH_MAX are
// reached one after the other, with a bounded number of descriptors.
//
// Parents that the tar does not mention look as they do in the layers below, time included, and where those have a
// symlink the path goes through it. Where they have nothing, a parent is 0755 and belongs to root. Other directories that
// were there before keep their times, too, whatever is put into them.
//
// A directory that a whiteout spares without having been mentioned is 0755 and root's, as nothing is
// below it any more. Nothing is made to hide what is not there.
//
// In the overlay dialects deletion is recorded for the layers below, and a directory that takes the place of something else
// becomes opaque. What is below, [Options.Below] is asked for, but only for a parent that is implied, for a mark, and for an opaque root,
// which overlayfs does not know and which therefore hides name by name. As long as it is not known, a parent
// that is implied gets a mark of its own, which overlayfs does not show (the attribute trusted.overlay.strata.implied or
// user.overlay.strata.implied), and every deletion is recorded; [Settle] then asks about them. Such parents that the
// tar then removes, describes or makes opaque are listed in the file .wh..wh.strata.contested in the root;
// Settle refuses the layer if there is something else than a directory below one of them. Attributes of overlayfs itself are never
// unpacked where they would act on other layers. A 0:0 character device is a whiteout where overlayfs mounts the layer, and
// a device elsewhere.
//
// Extended attributes that the kernel does not know for a file of that kind on this file system are
// left out, and counted in unpack.Result; every other failure to set one is an error.
//
// A directory's default ACL and setgid bit are not inherited by what the tar gives other properties.
//
// The work is proportional to the tar (go test -bench Cost shows it for shapes that try to make it
// more). A tar is refused if its names lead through more than 65,536 steps of symlinks' targets, or
// imply more than 65,536 directories, and 64 for each entry besides. A path that was made takes about
// 40 bytes of memory.
//
// # Durability
//
// With [Options.Durable] a layer is made durable with one syncfs at its end. Milliseconds from the
// first byte of the tar to the end of the flush, of which in parentheses the flush; one run of each,
// on loop images, on a two-core machine that was busy with other work, so only large differences mean
// anything. "many" is 60,000 files of about 1 KiB, "big" two of 64 MiB; "early" starts the write-back
// of each file when it is complete, "fdatasync" is eight at a time after unpacking, and then syncfs
// for the directories:
//
//	             syncfs          early + syncfs   fdatasync + syncfs
//	many  ext4   4730 (2040)     7330 (290)       39900 (36730)
//	      xfs    8520 (3470)     5430 (130)       19160 (16620)
//	      btrfs  6800 (600)      7080 (900)       29180 (22850)
//	big   ext4   560 (170)       420 (75)         490 (90)
//	      xfs    590 (330)       1050 (44)        460 (200)
//	      btrfs  990 (740)       500 (42)         430 (210)
//
// Calling fdatasync for each of many files is two to eight times as slow: that much is certain.
// Starting early moves the cost of small files from the flush into the unpacking; the sum was worse
// on ext4, better on xfs and the same on btrfs. For large files it was better on ext4 and btrfs and
// worse on xfs. So small files are left to syncfs, and the disk starts on large ones each time 8 MiB
// of them are there.
//
// What syncfs costs besides is all that others have written to the file system, above all Docker,
// which keeps a copy of an archive there while it loads it. So up to 8 files and directories are
// synced one by one. The docker load of one file of 1 GiB fell from 1.50 to 1.11 times the time that
// Docker's own overlay2 takes, which syncs nothing (medians of two rounds).
//
// # Cost
//
// Milliseconds to unpack on tmpfs, and of CPU time in all threads, on a two-core machine with nothing
// else to do; ours include the digest (go test -bench Unpack). "many" is 60,000 files of about 1 KiB,
// "debian" 11,000 files of together 320 MB:
//
//	         docker        GNU tar       Apply        Apply with log
//	many     4820 (5240)   1210 (1180)   820 (1520)   830 (1600)
//	debian   1230 (1340)    540 (530)    400 (770)    430 (820)
//
// Replay gives back 1.3 GB/s of large files and 0.4 GB/s of many small ones (go test -bench Replay).
package dirsink
