// Package store remembers layers: their names, their tree, their states, what is mounted. It owns
// everything that backends would otherwise each have to repeat: locking, recovery after a crash,
// counted mounts, sealing, and general ways to diff, apply, measure and map layers for backends
// that have no better way of their own.
//
// # Names and IDs
//
// A client names its layers as it likes. On disk a layer has an ID of 80 random bits in base 32,
// so that an ID is never used twice, a name is free again as soon as Remove returned, and renaming
// is a matter of metadata. A layer that was adopted from another program keeps the name that its data had
// as ID and name.
//
// # On-disk format
//
// Format 1, below the store's root:
//
//	strata.json        what the store promised when it was made: format, uuid, backend, exactDiffs, created
//	lock               empty; flock(2)ed exclusively by the process that has the store open
//	layers/ID          the record of one layer
//	layers/ID.new      the record of a layer that is being made, or of a draft; or one that is about to
//	                   replace layers/ID. If its text is whole and does not say creating, it counts
//	layers/ID.part     the record of a layer that is being filled from a tar, unless one of those two counts
//	layers/ID.gone     the record of a layer that was removed; its data is being deleted, or waits
//	                   until the last child is gone
//	layers/*.tmp       a record that was being written when the process died; ignored, swept at Open
//	damaged/DIR-NAME   what Check with Repair has taken out of DIR, layers/ or logs/: the text of a record that it mended, and
//	                   what belongs to no layer. DIR-NAME.2 and so on are further ones. Nothing reads them
//	logs/ID            headers and padding of the tar that filled the layer (backend/internal/layertar/tarlog)
//	data/BACKEND/      the backend's home; its package comment documents it
//	mnt/ID/            where a layer is mounted; exists only while it is
//	mnt/.own/ID        empty; there while the layer is mounted for the store itself only, which the next Open undoes
//	mnt/.active/       where the backend mounts what layers consist of, if it has to
//	mnt-GID/ID/        where a layer is mounted that has an ID map; GID is the host's group of the container's root
//
// All directories belong to root, mode 0700, but for two kinds. mnt-GID has the group GID and the mode 0710; it exists while something is mounted in
// it. Meanwhile the root, if mnt lies in it, has that group and mode, too, or 0711 if there are several such directories. A root with
// another mode is somebody's own and stays as it is. An earlier version mounted layers with an ID map in mnt, which
// was open to their group then: such mounts stay there, and mnt open, until they are unmounted.
//
// Front ends keep files of their own beside these: init.json and config.json.
//
// strata.json is written once the backend has opened: a first start with a wrong backend makes no store. A store
// without records, in whose backend's home there are no layers either, is made anew when it is opened with another
// backend or another exactDiffs: strata.json is replaced, with another uuid, and the old home is removed if it is
// empty.
//
// strata.json and the records have the same form: one line of JSON, one line with the CRC-32C
// (Castagnoli) of the first line, its newline included, as eight hexadecimal digits. A record is
// written to ID.tmp, which becomes ID.new, is synced and becomes ID: whichever of the names a power cut
// leaves, the text under it is whole. The JSON of a record holds:
//
//	id       the ID, the same as the file's name
//	name     the client's name. That of containerd's snapshots begins with "containerd/"
//	parent   the parent's ID; absent in a base layer. It may lie in an additional store
//	replaces the ID of a layer in whose place this one is; if that is still there, it was removed
//	state    creating or ready; of no meaning in ID.part and ID.gone
//	sealed   true once the layer is read-only for ever
//	detached true as long as the layer has no parent and may get one
//	draft    true as long as a power cut may take the layer; its record is called ID.new until then
//	link     true if the layer is another name of its parent and has no data of its own
//	lent     true if a client may have mounted the layer, for which the backend has to prepare something
//	created  RFC 3339, UTC
//	limit    bytes; absent for none
//	label    SELinux mount label
//	idmap    uids and gids, lists of {container_id, host_id, size}
//	labels   the front end's own, string to string: 4096 bytes each, 128 KiB together
//	applied  of a layer filled from a tar: size (sum of file sizes), bytes (length of the tar),
//	         digest (sha256:...), exact (the tar can be given back)
//
// A record is not longer than 32 MiB. Only regular files are read, and no symbolic link is followed, in layers/, in logs/ and
// for strata.json.
//
// # Bad records
//
// A record is bad if its text is not what was written, is no regular file, describes a layer of another ID, or has a state that
// this version does not know. It stays where it is, and the layer does not exist for clients. No other layer gets its ID. Check
// names it with its children. Open and GC keep its data as long as a readable record names it as its parent, or it may be
// mended, or something mounted uses it, and they keep what it stands on; if nobody can tell what that is, all removed layers that have been a
// parent, and all layers of which the client does not know.
//
// The checksum of a record in which one bit is wrong tells which, and a record that somebody edited can still be read: Check with
// Repair writes such ones anew, unless the latter names a parent that is not there. Of others it keeps the hands off; a record from a backup takes the place of one at the next Open, or
// the next Check with Repair.
//
// A record that is damaged or removed while the store is open costs nothing as long as it stays open, for the layer is in memory. Check
// names it, and with Repair writes it anew.
//
// A record of which name or parent cannot be told is bad for good: children and log know neither. Layers whose parents form a circle are
// treated as if the parent had no record.
//
// # Why files and not a database
//
// Measured on ext4 on a 2-core virtual machine, medians of 200: a record written with fsync, rename
// and fsync of the directory takes 0.48 ms, a bbolt transaction 0.31 ms, a record without fsync
// 0.03 ms. A database has one writer, whose fsyncs all others wait for; with one file a layer, each
// layer waits for its own only. A torn or rotten record costs one layer, which check names, and not
// the store.
//
// # States and recovery
//
// An operation writes its intent, calls the backend, and writes the outcome:
//
//	creating  Create or Clone has not returned
//	ready     usable
//	applying  Apply has not returned (ID.part): the content is not whole
//	removing  Remove has returned, or nearly (ID.gone, or still ID.part)
//
// At Open every layer that is neither ready nor the parent of one that is, is removed, data before record. A mount below mnt/ that an
// earlier process left counts once, unless it was the store's own. Nothing else is ever deleted without being asked for: data
// without a record and records without data are found by Check, and removed by GC or Check with
// Repair. Both judge a layer under its lock, again before they remove it; they never remove one that somebody makes, fills, reads or has
// mounted. Of two records with one name the layer has it that is mounted, has children, or is the younger; Check with Repair calls the other one by
// its ID.
//
// # Durability
//
// With SyncLayer a record is durable before the call that wrote it returns, and so is the content of
// a layer before its record says ready. Exempt is a draft, whose client fills and commits it at once: Commit makes
// it durable. Removal is durable before any data is deleted, not when Remove
// returns: a power cut in between brings the layer back, whole. Data written through a mount is the
// kernel's business, as on any file system. The type durability has a table of what is synced when.
//
// A full disk may have no room for the rename to ID.gone (btrfs, ZFS). Remove then deletes the record of a layer without children
// instead. A crash before its data is deleted leaves data without a record, which GC removes.
//
// ext4 and xfs write what happened to names in order, in one journal: fs/jbd2, and
// xlog_cil_force_seq in fs/xfs/xfs_log_cil.c. A name that a file got before it is synced is durable with it: ext4_rename
// and xfs_rename log the file's inode, too. If records and data share one journal, a sync of the record
// makes everything durable that happened to names before, so that creating an empty layer takes one trip
// to the disk, and so does any change of a record. Elsewhere, and above all on btrfs, which logs single
// files, each thing is synced in its turn: intent, layer, record, names. Removal takes no trip while its caller waits.
//
// # Concurrency
//
// Operations on one layer wait for each other; operations on different layers do not. Streams (Apply,
// Diff) hold no lock: the state keeps others away from a layer that is being filled, Apply ends who reads it already, and Remove
// cancels the streams on a layer before it deletes anything, and does not wait for a client that neither reads nor writes (WithInterrupt). A layer that SetIDMap has replaced stays until the streams on it
// have ended. Several Removes of one layer are one: the first does the work, the others wait for its outcome. There is one
// Adopt at a time; another one does not wait.
//
// Locks are taken in this order, each of them by at most one goroutine at a time:
//
//  0. Store.mending, held while something is put into damaged/ and a bad record is written anew.
//  1. layer.mu, a child's before its parent's. It may be held across calls of the backend, never across a stream.
//  2. activation.mu, a child's before its parent's. It is held while the backend activates or deactivates.
//  3. gates.mu, held while mount points and the directories above them are made and removed. No mount is made under it.
//  4. peer.turn, the right to read an additional store. That may lie on a file system that hangs, so whoever waits
//     for it gives up when its context ends, and holds no other lock.
//  5. Store.mu, held for memory accesses only: no call of the backend and no disk access happens under it.
//  6. deleter.mu, likewise.
//
// What was judged without a lock is judged again under it: a layer that was looked up by its name may have been removed,
// replaced, or be called something else, when its layer.mu is taken. Then the name is looked up again (hold, meant). Remove marks
// the layer as gone under layer.mu, so that Commit and SetIDMap end whole before it, or find that the layer is gone.
package store
