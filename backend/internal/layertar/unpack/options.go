package unpack

import (
	"strata/backend"
	"strata/backend/internal/layertar/tarlog"
)

// Options say how Apply reads a tar.
type Options struct {
	// Literal says that the sink stores marks as files: names like .wh.x mean nothing.
	Literal bool
	// Marks is what marks act where the layer is mounted: attributes that would be one are left out.
	Marks backend.Whiteouts
	// IDMap maps the tar's owners to those that the layer stores. nil changes nothing.
	IDMap *backend.IDMap
	// Log records what Replay needs to give the tar back byte for byte. nil records nothing. Apply
	// completes the log but leaves Sync and Close, or after an error Abort, to the caller.
	Log *tarlog.Writer
}

// Result describes a tar that was applied.
type Result struct {
	Size    int64  // sum of the sizes of the regular files, bytes, holes included
	Bytes   int64  // length of the whole stream, bytes
	Digest  string // "sha256:" and 64 hex digits, over the whole stream
	Entries int    // entries, extension headers not counted
	// LeftOut are extended attributes that files of the layer do not have: Linux or the file system knows none of that name for
	// a file of that kind, or they would act on other layers.
	LeftOut Note
	// Devices0 are character devices 0:0. Where overlayfs mounts the layer they are deletions, elsewhere devices.
	Devices0 Note
}

// Note is something that whoever keeps a log may want to write down.
type Note struct {
	Count int
	First string // one of them, for people; the first, or nearly so
}
