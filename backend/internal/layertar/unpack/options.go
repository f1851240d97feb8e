package unpack

import (
	"strata/backend"
	"strata/backend/internal/layertar/tarlog"
)

// Options say how Apply unpacks a tar.
type Options struct {
	// Whiteouts is how deletions are stored in the directory.
	Whiteouts backend.Whiteouts
	// Marks is what marks act where the layer is mounted, if Whiteouts does not say so: what would be one is kept out.
	Marks backend.Whiteouts
	// Below opens the view of what the layers below show, for the dialects of overlay. It is called when that is first
	// asked for. nil says that it is not known yet; Settle is to be called once it is.
	Below func() (backend.Below, error)
	// IDMap maps the tar's owners to those on disk. nil changes nothing.
	IDMap *backend.IDMap
	// Log records what Replay needs to give the tar back byte for byte. nil records nothing. Apply
	// completes the log but leaves Sync and Close, or after an error Abort, to the caller.
	Log *tarlog.Writer
	// Durable makes everything that was unpacked durable before Apply returns: see the package comment.
	Durable bool
	// AllowEmpty takes a stream of no bytes for a layer without entries. Otherwise it is io.ErrUnexpectedEOF.
	AllowEmpty bool
	// Workers is how many files are written at a time. 0 takes the default.
	Workers int
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
