package dirsink

import "strata/backend"

// Options say how a directory holds a layer.
type Options struct {
	// Whiteouts is how deletions are stored in the directory.
	Whiteouts backend.Whiteouts
	// Marks is what marks act where the layer is mounted, if Whiteouts does not say so: what would be one is kept out.
	Marks backend.Whiteouts
	// Below opens the view of what the layers below show, for the dialects of overlay. It is called when that is first
	// asked for. nil says that it is not known yet; Settle is to be called once it is.
	Below func() (backend.Below, error)
	// IDMap maps owners in the container to those on disk. nil changes nothing.
	IDMap *backend.IDMap
	// Durable makes everything that was unpacked durable before Finish returns: see the package comment.
	Durable bool
	// Workers is how many files are written at a time. 0 takes the default.
	Workers int
}
