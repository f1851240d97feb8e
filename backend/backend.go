// Package backend is the contract between the store and the places where layers can be kept.
//
// A layer is a file tree that is stored as its difference from a parent layer. The store
// (package store) owns everything that layers have in common: names, the tree, states, locks,
// counted mounts, crash recovery, logging. A [Backend] only knows how one layer is laid out on
// one kind of storage. It holds no locks, no reference counts, no metadata of its own, mounts no
// layer and logs nothing: it is told what to do and returns an error. What layers consist of, such as
// disk images, an [Activator] mounts itself, in [Env].Active and with package backend/internal/mount.
//
// Three methods make a backend. Everything else a kind of storage can do better than the store's
// general code is an optional interface of one or two methods (capability.go); the comment on
// each says what the store does without it.
//
// # Rules for every method
//
// A call that changes a layer never overlaps with another one for the same layer. Diff, Changes,
// Usage, Place, Mounts and List only read; they may overlap, and may find the layer mounted and in
// use by a container: a file that vanishes meanwhile is left out. Calls for different layers run in
// parallel. Every method may be repeated after a crash or an error and then has the same effect as
// one complete call. No method modifies a layer other than the one it is given: parents are read
// only.
//
// An error is the bare cause. The store says what was done, to which layer, by name and ID, and
// gives an error of the kernel its class. A backend adds a class from github.com/containerd/errdefs
// where it knows more than the errno says, and names a layer only if it is not the one it was given.
package backend

import (
	"context"
	"fmt"
	"regexp"

	"github.com/containerd/errdefs"
)

// Layer identifies one layer to a backend. It is a value: a backend keeps no reference to it.
type Layer struct {
	// ID is the layer's name on disk ([CheckID]), chosen by the store, never used twice in one store
	// and, being random, not in two stores either. An adopted layer keeps the name that it had.
	ID string
	// Parents are the layers below, nearest first. All of them are sealed.
	Parents []Parent
	// Limit is how many bytes the layer itself may grow to, parents not counted. 0 is no limit.
	Limit int64
	// IDMap tells how owners are stored on disk. nil stores them as the container sees them.
	IDMap *IDMap
	// Sealed says that the store has noted that the layer does not change any more. After Seal has
	// returned and before that is noted it is still false.
	Sealed bool
	// Detached says that the layer has no parents yet (Rebaser): deletions in it mean something.
	Detached bool
}

// idPattern keeps IDs from leading elsewhere than to one file or dataset of their own.
var idPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,95}$`)

// CheckID refuses what cannot be a layer's ID: 1 to 96 characters of [a-z0-9-], of which the first is not
// a dash. ErrInvalidArgument.
func CheckID(id string) error {
	if !idPattern.MatchString(id) {
		return fmt.Errorf("layer ID %.120q: %w", id, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Parent is a layer below another one.
type Parent struct {
	ID    string
	IDMap *IDMap
}

// Parent returns the ID of the nearest parent, or "" for a base layer.
func (l Layer) Parent() string {
	if len(l.Parents) == 0 {
		return ""
	}
	return l.Parents[0].ID
}

// Mount describes one mount(2). The store chooses the target and performs it with
// backend/internal/mount, which documents the options it gives a meaning of its own.
type Mount struct {
	Type    string // file-system type, or "bind"
	Source  string
	Options []string // as in fstab: "ro", "lowerdir+=/a/b", ...; one option an element, nothing escaped
}

// MountOptions say how a layer is about to be mounted.
type MountOptions struct {
	ReadOnly bool
	Label    string // SELinux mount label, "" for none
}

// Backend keeps layers on one kind of storage.
type Backend interface {
	// Create makes an empty layer on top of its parents, writable through Mounts. Its root
	// directory has the nearest parent's mode, owner and extended attributes; for a base layer it
	// is 0755 and belongs to root, whose place in the IDMap the store gives it. After a crash the
	// store calls Remove for a Create that did not return.
	Create(ctx context.Context, l Layer) error
	// Remove deletes a whole or half-made layer that nobody has mounted; nil if there is nothing.
	// It never crosses a mount point.
	Remove(ctx context.Context, l Layer) error
	// Mounts describes how to mount the layer on one directory: usually a single mount, else
	// several to be stacked in order. It mounts nothing.
	Mounts(ctx context.Context, l Layer, o MountOptions) ([]Mount, error)
}

// Env is what the store gives a backend's constructor.
type Env struct {
	// UUID identifies the store: 16 characters of [a-z2-7]. A backend that keeps layers outside Home marks
	// them with it, so that two stores in one place do not take each other's for their own.
	UUID string
	// Home is the backend's own directory in the store. It exists, belongs to root, mode 0700, and
	// nobody else writes there. It passes no ACL and no group on to what is made in it.
	Home string
	// Stores are the homes of further, read-only stores of the same backend. Layers in them occur
	// only as parents; they are looked up by ID after Home.
	Stores []string
	// Fresh says that the store is new, perhaps in place of one without layers: what a backend finds noted in Home means
	// nothing. The store is not made if the constructor fails.
	Fresh bool
	// Active is the directory in which an Activator may mount what its layers consist of, each in a directory of its ID. It
	// exists if the backend is an Activator. Whoever mounts layers sees the mounts in it.
	Active string
}

// ChangeKind says what happened to a path between a parent and its child.
type ChangeKind int

// The values are those of Docker's wire protocol (docker/docker pkg/archive, ChangeType).
const (
	Modified ChangeKind = iota
	Added
	Deleted
)

// String returns the letter that `docker diff` prints.
func (k ChangeKind) String() string {
	switch k {
	case Modified:
		return "C"
	case Added:
		return "A"
	case Deleted:
		return "D"
	}
	return "?"
}

// Change is one path that differs between a layer and its parent.
//
// A sequence of changes is in path order: sorted by the path's components, so a directory comes
// directly before what it holds. A directory that holds changes is itself listed, as Modified at
// least. A deleted or replaced directory is one entry; what it held is not listed. A directory
// that was replaced by a new one of the same name (opaque) is Modified, and each of the old
// directory's entries that is gone is Deleted. The root is never listed.
type Change struct {
	Path string // absolute within the layer: "/etc/passwd"
	Kind ChangeKind
}

// Usage is what a layer itself occupies, its parents not counted.
type Usage struct {
	Size   int64 // bytes on disk: st_blocks x 512, each inode once
	Inodes int64 // 0 where the storage does not count them
}

// Field is one line of a report.
type Field struct{ Name, Value string }
