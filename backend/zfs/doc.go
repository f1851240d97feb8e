// Package zfs keeps each layer as a ZFS dataset, a clone of a snapshot of its parent's.
//
// # On disk
//
//	<parent>/<ID>          a dataset, mountpoint=legacy: its root directory is the layer's. quota is the layer's limit,
//	                       strata:store the UUID of the store, com.sun:auto-snapshot=false
//	<parent>/<ID>@<ID>     the snapshot that Seal makes; children are clones of it. At most one a layer
//	<home>/dataset         the name of the parent dataset and its guid, a line each
//
// The parent dataset is named by zfs.fsname or is the one on which the home lies. Other datasets below it are left
// alone. Docker's and podman's own zfs drivers keep layers in the same way, so theirs can be adopted as they
// are (Adopt), and used by those drivers again.
//
// Two more kinds of snapshot can be met: <ID>@strata-tmp-* exists while a layer that is not sealed is compared with its
// parent or cloned; and a clone that outlives the layer it was cloned from (Store.Clone, Store.SetIDMap) takes over that layer's
// snapshot, marked to be destroyed with the last clone.
//
// Every change is one that ZFS makes in one transaction, on disk when the kernel answers: an interrupted call leaves all of it
// or nothing. A dataset's properties come in a second transaction. A dataset that crashed before it got them is recognised
// by its name of 16 random characters, and Remove, which the store calls for an unfinished layer, deletes it.
//
// # Commands
//
// What every container costs takes no process: clones and snapshots are asked of the kernel (package device), as is the
// comparison of a layer with its parent, and mounting is mount(2). github.com/mistifyio/go-zfs describes the pool and the
// parent dataset, which is what New checks and Report tells; it takes no context and runs zfs(8) without a time limit, so
// it is for nothing that a container waits for. zfs(8) would look at all other clones of the parent first. For the rest the host's own
// tools are run (package command), for tool and kernel module have to match: one command for a layer without parents, and one for the removal of
// a layer, a channel program that looks for what is in the way and destroys dataset and snapshots in one transaction. No command
// lists all datasets, but for check, gc and adopt.
//
// # What changed
//
// A clone shares its object numbers (inode numbers) and its blocks with its parent's snapshot, and each block carries
// the number of the transaction group that wrote it. So the kernel can name the changed objects by reading no
// more than the blocks that are younger than the snapshot (ZFS_IOC_DIFF, what `zfs diff` begins with). Narrow adds the directories
// above them and has the store compare the two trees with everything else passed over: the comparison
// decides in the end, and its answer is that of a complete one. New probes whether this kernel takes that request as we
// make it; if not, the trees are compared as a whole, and Report says so.
//
// Package changed finds the names of the objects. `zfs diff` can leave out a change of a file with several names; it also
// compares times of change only, and looks at every object of every block that it found.
//
// # Limits
//
// The property quota counts what the layer itself has written. ZFS learns about it once a transaction group, some seconds:
// a container can exceed its limit by what it writes in that time.
//
// # Needs
//
// OpenZFS 0.8 (channel programs), /dev/zfs, zfs(8) and zpool(8) in PATH, and CAP_SYS_ADMIN.
package zfs
