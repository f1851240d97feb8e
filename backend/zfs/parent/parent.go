// Package parent finds the ZFS dataset below which a store has its layers, and notes it in the backend's home.
//
// The note is the file dataset: the dataset's name and its guid, a line each. It is replaced durably when the dataset has
// been renamed. The guid tells another dataset of the same name. Functions for one home are called one at a time.
package parent

import "regexp"

// names is a little stricter than zfs_namecheck.c: no snapshot, no bookmark, no "%".
var names = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_.: -]*(/[a-zA-Z0-9_.: -]+)*$`)

// IsName tells whether a dataset can have a name.
func IsName(name string) bool { return names.MatchString(name) }
