package backend

import (
	"context"
	"io"
	"iter"
	"time"
)

// The interfaces below are optional. The store looks for them once, when it opens, and prints the
// result in `strata info`.

// Sealer learns that a layer will not change any more, before its first child is made. If the process dies before the
// store has noted that, the layer may be written to once more, and Seal is called again. Without it nothing happens: the
// store itself mounts sealed layers read-only.
type Sealer interface {
	Seal(ctx context.Context, l Layer) error
}

// Whiteouts says how a deleted path is kept in a layer's own directory.
type Whiteouts int

const (
	// WhiteoutsNone: the directory holds the whole tree; a deletion deletes.
	WhiteoutsNone Whiteouts = iota
	// WhiteoutsOverlay: a 0:0 character device, and trusted.overlay.opaque=y on a directory.
	WhiteoutsOverlay
	// WhiteoutsOverlayUser: the same with user.overlay.opaque, for mounts with userxattr.
	WhiteoutsOverlayUser
	// WhiteoutsAUFS: files called .wh.NAME and .wh..wh..opq, as in a layer tar.
	WhiteoutsAUFS
)

// Place is where the files of one layer can be reached without mounting it.
type Place struct {
	Dir       string
	Whiteouts Whiteouts
	// Marks says which marks a mount of the layer, or of a layer above it, interprets. Attributes of these names in a tar
	// are not stored. It equals Whiteouts, except for a base layer, which has no deletions.
	Marks Whiteouts
	// Below opens the view of what the parents show. It is nil where Dir holds the whole tree, and for a Detached layer.
	Below func() (Below, error)
}

// Whole reports whether Dir holds the layer's whole tree as it is seen where the layer is mounted.
func (p Place) Whole() bool {
	return p.Whiteouts == WhiteoutsNone && p.Marks == WhiteoutsNone && p.Below == nil
}

// Below is the tree that a layer's parents show together, read without a mount. Paths are clean and relative to its root,
// which is ".". No symlink in a path is followed: what lies behind one is not there. It is for one goroutine.
type Below interface {
	// Lookup returns what stands at a path, nil for nothing.
	Lookup(path string) (*Node, error)
	// Names lists what the directory at a path holds, sorted; nothing if it is none.
	Names(path string) ([]string, error)
	io.Closer
}

// Node is one file in Below, with its owner as the layer above would store it.
type Node struct {
	Mode         uint32 // st_mode, type included
	UID, GID     uint32
	Atime, Mtime time.Time
	Target       string            // of a symlink
	Xattrs       map[string]string // of a directory, without those that say how layers are merged
}

// Placer gives access to a layer's own files without a mount. The store unpacks a diff straight into Dir and reads file
// contents from there. With whiteouts other than WhiteoutsNone, Dir holds the layer's own changes only, and Below shows
// what they change. Without it the store mounts the layer.
type Placer interface {
	Place(ctx context.Context, l Layer) (Place, error)
}

// Changer lists the difference from the nearest parent, for storage that keeps such a list. The store takes the files
// themselves from Placer's directory or a mount. ErrNotImplemented, before the first change, makes the store compare both
// trees, narrowed by Narrower. Without it the store always does that.
type Changer interface {
	Changes(ctx context.Context, l Layer) iter.Seq2[Change, error]
}

// Narrower knows which files of a layer may differ from its nearest parent, for storage that shares inode numbers and
// blocks between the two. upper and lower are the directories where the two trees can be read during the call. The
// store skips every name that has the same inode number in both trees if unchanged returns true for that number; dev is
// the device of the upper tree. A nil function skips nothing. Without it the store looks at every name.
type Narrower interface {
	Narrow(ctx context.Context, l Layer, upper, lower string) (unchanged func(dev, ino uint64) bool, err error)
}

// Meter tells what a layer occupies without reading the parents. Without it the store walks the
// layer's Place, or the mounted tree. Data without a record is never mounted: without Meter and Placer gc
// lists it without a size.
type Meter interface {
	Usage(ctx context.Context, l Layer) (Usage, error)
}

// Limiter keeps a layer within Layer.Limit from Create on and lets the limit be changed later.
// Without it asking for a limit is an error.
type Limiter interface {
	SetLimit(ctx context.Context, l Layer, bytes int64) error
}

// IDMapper can show a layer whose parents are stored with another IDMap than its own. MapIDs is
// called once, after Create, for such a layer; ErrNotImplemented if the kernel or the file system
// cannot. Without it, or then, the store mounts the layer and changes the owner of every file in it.
type IDMapper interface {
	MapIDs(ctx context.Context, l Layer) error
}

// Cloner makes l a copy of the template without reading its content through a tar. The template has the same parents,
// may be unsealed, and does not change during the call. Clone takes the place of Create. Without it Store.Clone applies
// the template's diff to a new layer, and Store.SetIDMap is not supported.
type Cloner interface {
	Clone(ctx context.Context, l Layer, template Layer) error
}

// Rebaser keeps a layer as its difference from its parents. Rebase attaches a Detached, unused layer to l.Parents
// (possibly none), permanently. Afterwards the layer is as if it had had these parents when it was filled; a path of it
// that leads nowhere above them is an error. A root directory that is still as Create made it gets the properties of the
// nearest parent's. Without it a layer that was made without parents has none.
type Rebaser interface {
	Rebase(ctx context.Context, l Layer) error
}

// Activator prepares what the mounts of a layer consist of, for example a disk image that has to be attached and
// mounted in Env.Active. A layer is active while it is mounted, while a client may have it mounted, and while a layer
// above it is active. The layers below are activated before it and deactivated after it. After a crash Activate may be
// called for an active layer and Deactivate for an inactive one; a mount at Env.Active/<ID> means that the layer may be
// active. Without it nothing happens.
type Activator interface {
	Activate(ctx context.Context, l Layer) error
	Deactivate(ctx context.Context, l Layer) error
}

// Syncer makes a layer durable that Create has just made and nobody has written to. The store calls it where the sync of
// the layer's record does not do so (package store, section Durability). A layer of such a backend
// consists of names only until somebody writes to it. Without it the store calls syncfs(2) on Home, as it does for every
// layer with content of its own.
type Syncer interface {
	SyncCreated(ctx context.Context, l Layer) error
}

// ContentSyncer makes durable what was written to a layer through its mounts. Seal of such a backend does so
// as well, so that the store syncs nothing else for a layer that it seals. Without it the store syncs the
// file systems of Place or of Home. It is so after Sink.Finish, too.
type ContentSyncer interface {
	SyncContent(ctx context.Context, l Layer) error
}

// Checker looks for damage that only the backend can see and mends what can be mended without
// guessing if repair is set. Without it check compares the tree with Lister's answer only.
type Checker interface {
	Check(ctx context.Context, l Layer, repair bool) error
}

// Lister lists the IDs of all layers in Home, whole or half made, in any order. Without it data
// that has no metadata cannot be found.
type Lister interface {
	List(ctx context.Context) ([]string, error)
}

// Surveyor reports what lies outside Home and does not belong there: datasets or snapshots made by others, and anything
// that blocks a removal. With repair it deletes leftovers that are certainly its own. Without it check and gc know only
// what Lister lists.
type Surveyor interface {
	Survey(ctx context.Context, repair bool) ([]Oddity, error)
}

// Oddity is one thing that a Survey found.
type Oddity struct {
	ID       string // of the layer that it belongs to, "" for none
	Detail   string
	Repaired string // what was done about it, "" if nothing
}

// Adopter takes in layers that another program has made in the same place and in the same way, such as
// Docker's own driver of that kind. Without it there is nothing to adopt.
type Adopter interface {
	// Adoptable lists them, parents before children. None of them is in use. A layer of this store may be among them while it is
	// being made or removed.
	Adoptable(ctx context.Context) ([]Foundling, error)
	// Adopt makes the foundling called l.ID a layer of this store. Nothing is copied, moved or renamed,
	// and its maker can still use it. The store has noted the layer before.
	Adopt(ctx context.Context, l Layer) error
}

// Foundling is a layer that another program has made. Its name can be an ID.
type Foundling struct {
	ID, Parent string // Parent is "" for a base layer
}

// Describer adds fields to what `docker inspect` tells about a layer. Without it
// only the store's own are shown.
type Describer interface {
	Describe(ctx context.Context, l Layer) ([]Field, error)
}

// Reporter adds fields to `docker info` and `strata info`. Without it only the store's own are shown.
type Reporter interface {
	Report(ctx context.Context) ([]Field, error)
}

// Closer releases what the backend holds. Without it nothing happens.
type Closer interface {
	Close() error
}
