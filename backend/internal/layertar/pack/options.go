package pack

import "strata/backend"

// Options say how Changes makes a tar.
type Options struct {
	// IDMap maps the owners on disk to those in the tar. nil changes nothing.
	IDMap *backend.IDMap
	// Marks is what marks the directory has of how layers are merged: they stay out of the tar.
	Marks backend.Whiteouts
	// Vanished says that the tree is in use: files that are gone are left out, and files that shrink
	// while they are read are filled up with zeros. Otherwise both are errors.
	Vanished bool
}
