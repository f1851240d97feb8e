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
//	logs/ID            headers and padding of the tar that filled the layer (backend/internal/layertar)
//	data/BACKEND/      the backend's home; its package comment documents it
//	mnt/ID/            where a layer is mounted; exists only while it is
//	mnt/.active/       where the backend mounts what layers consist of, if it has to
//
// All directories belong to root, mode 0700. The root and mnt get the group of a user namespace's root,
// and 0710, when a layer with an ID map is mounted.
//
// Front ends keep files of their own beside these: init.json and config.json.
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
//	labels   the front end's own, string to string
//	applied  of a layer filled from a tar: size (sum of file sizes), bytes (length of the tar),
//	         digest (sha256:...), exact (the tar can be given back)
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
// earlier process left counts once. Nothing else is ever deleted without being asked for: data
// without a record and records without data are found by Check, and removed by GC or Check with
// Repair.
//
// With SyncLayer a record is durable before the call that wrote it returns, and so is the content of
// a layer before its record says ready. Exempt is a draft, whose client fills and commits it at once: Commit makes
// it durable. Removal is durable before any data is deleted, not when Remove
// returns: a power cut in between brings the layer back, whole. Data written through a mount is the
// kernel's business, as on any file system.
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
// Diff) hold no lock: the state keeps others away from a layer that is being filled, and Remove
// cancels the streams on a layer before it deletes anything.
package store
