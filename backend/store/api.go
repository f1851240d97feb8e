package store

import (
	"context"
	"time"

	"strata/backend"
	"strata/backend/store/records"
)

// SyncMode says what a returned call survives.
type SyncMode string

const (
	// SyncLayer makes a layer durable before Apply returns, and metadata before every return.
	SyncLayer SyncMode = "layer"
	// SyncNone leaves writing back to the kernel: a power cut can lose the last half minute, and
	// what it tore is found and dropped at the next Open. A killed process loses nothing.
	SyncNone SyncMode = "none"
)

// Config says which store to open, and how.
type Config struct {
	Root     string // the store's directory; made if missing, its parent must exist
	MountDir string // where layers are mounted, those with an ID map in MountDir-GID; default Root/mnt
	Backend  string // name of the backend, recorded in a new store; another name for an old one is an error
	// New makes the backend. It runs after the store is locked and before recovery.
	New  func(ctx context.Context, env backend.Env) (backend.Backend, error)
	Sync SyncMode // default SyncLayer
	// ExactDiffs decides for a new store whether every applied diff can be given back byte for
	// byte. An old store keeps what it was made with; Open fails if the two differ and ExactDiffsSet is true.
	ExactDiffs bool
	// ExactDiffsSet says that the user asked for ExactDiffs, one way or the other.
	ExactDiffsSet bool
	Stores        []string       // roots of additional read-only stores, searched in order after this one
	IDMap         *backend.IDMap // how new layers are stored
	// Unseen reports why clients that mount layers themselves, such as containerd, cannot see mounts made in dir; nil if
	// they can. A nil func means that they can.
	Unseen   func(dir string) error
	ReadOnly bool // inspect a store at rest: nothing is changed or recovered, no lock is needed
}

// CreateOptions are the properties of a new layer.
type CreateOptions struct {
	Limit  int64             // bytes, 0 for none
	Label  string            // SELinux mount label, used when Mount is given none
	IDMap  *backend.IDMap    // nil takes Config.IDMap
	Labels map[string]string // free for the front end
	// Detached is for a layer without a parent that Commit may give one, where the backend can do that.
	Detached bool
	// Draft is for a layer that is filled and committed at once, as when an image is unpacked. A power cut before Commit
	// may take it; a committed layer is never left in part. A store on which this saves nothing ignores it.
	Draft bool
}

// CommitOptions say how Commit makes a layer read-only.
type CommitOptions struct {
	Parent string            // "" keeps the parent that the layer has
	Labels map[string]string // take the place of those it has
}

// MountOptions say how Mount shows a layer.
type MountOptions struct {
	Label    string // SELinux mount label, "" takes the layer's own
	ReadOnly bool   // as a sealed layer is in any case; for Mounts only
	Describe bool   // nobody is going to mount it: nothing is prepared, and the layer stays what it was; for Mounts only
	view     bool   // the store only looks: the layer stays one that Apply may fill
}

// State is where a layer is in its life.
type State = records.State

// A layer is made (creating), usable (ready), perhaps filled from a tar (applying, then ready
// again), and removed (removing). At Open, layers in any state but ready are removed.
const (
	StateCreating = records.StateCreating
	StateReady    = records.StateReady
	StateApplying = records.StateApplying
	StateRemoving = records.StateRemoving
)

// Info is what the store knows about a layer.
type Info struct {
	Name     string            `json:"name"`
	ID       string            `json:"id"`               // on disk
	Parent   string            `json:"parent,omitempty"` // name
	State    State             `json:"state"`
	Sealed   bool              `json:"sealed"`         // read-only for ever: has or had children, was applied or committed
	Link     bool              `json:"link,omitempty"` // another name of the parent
	Lent     bool              `json:"lent,omitempty"` // a client may have mounted it, and needs what the backend prepared for that
	Created  time.Time         `json:"created"`
	Limit    int64             `json:"limit,omitempty"`
	Label    string            `json:"label,omitempty"`
	IDMap    *backend.IDMap    `json:"idmap,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	Applied  *Applied          `json:"applied,omitempty"` // nil if the layer was not filled by Apply
	Children int               `json:"children"`
	Mounts   int               `json:"mounts"`             // counted Mounts without Unmount
	MountDir string            `json:"mountDir,omitempty"` // where it is or will be mounted
	Store    string            `json:"store,omitempty"`    // root of the additional store it lies in, "" for our own
}

// Applied describes the tar that filled a layer.
type Applied = records.Applied

// StoreInfo describes an open store.
type StoreInfo struct {
	Root       string          `json:"root"`
	UUID       string          `json:"uuid"`
	Format     int             `json:"format"`
	Created    time.Time       `json:"created"`
	Backend    string          `json:"backend"`
	Sync       SyncMode        `json:"sync"`
	ExactDiffs bool            `json:"exactDiffs"`
	Stores     []string        `json:"stores,omitempty"`
	MountDir   string          `json:"mountDir"`
	Layers     map[State]int   `json:"layers"`
	Mounted    int             `json:"mounted"`
	Deleting   int             `json:"deleting"`  // layers waiting for background deletion
	Abilities  []backend.Field `json:"abilities"` // operation: native, or the store's way
	Fields     []backend.Field `json:"fields"`    // the backend's own report
}

// CheckOptions say how thoroughly Check looks.
type CheckOptions struct {
	Deep     bool // read every layer that Apply filled exactly, and compare it with its digest
	Repair   bool // mend what can be mended without guessing
	Progress func(done, total int)
}

// Finding is one thing that is wrong.
type Finding struct {
	Kind     FindingKind `json:"kind"`
	Layer    string      `json:"layer,omitempty"` // name, or the ID on disk where no name is known
	Detail   string      `json:"detail"`
	Repaired string      `json:"repaired,omitempty"` // what was done about it, "" if nothing
}

// FindingKind classifies a Finding.
type FindingKind string

// What Check can find.
const (
	FindingMissingData     FindingKind = "metadata-without-data"
	FindingMissingMetadata FindingKind = "data-without-metadata"
	FindingMissingParent   FindingKind = "parent-missing"
	FindingUnfinished      FindingKind = "unfinished"
	FindingForeignMount    FindingKind = "foreign-mount"
	FindingChanged         FindingKind = "content-changed"
	FindingBadRecord       FindingKind = "unreadable-record"
	FindingSameName        FindingKind = "name-hidden" // another layer has it, or the name leads nowhere
	FindingStray           FindingKind = "stray-file"  // in layers/, logs/ or mnt/
	FindingBackend         FindingKind = "backend"
	FindingOddity          FindingKind = "oddity" // named by the backend's Surveyor
	FindingNotice          FindingKind = "notice" // nothing is wrong, but worth knowing
)

// Harmless tells that nothing is lost or wrong: a notice, or an unfinished layer whose client already got an error. Such
// a layer goes when its client removes it, or when the store is next opened.
func (k FindingKind) Harmless() bool { return k == FindingNotice || k == FindingUnfinished }

// GCOptions say what GC compares the store with.
type GCOptions struct {
	// Known are the names that the client still has, nil if that is not known: then only what the
	// store itself can tell to be an orphan is listed.
	Known map[string]bool
	// Listed are the IDs of the layers that the client was asked about, nil for all: others are passed over, since the client may
	// have made them meanwhile.
	Listed map[string]bool
	Yes    bool // remove what is listed
}

// Adoption is a layer that another program has made and that can be, or was, taken in.
type Adoption struct {
	Name    string `json:"name"`
	Parent  string `json:"parent,omitempty"` // name
	Adopted bool   `json:"adopted"`
}

// ReasonUnknown is the Reason of an orphan that is missing in GCOptions.Known.
const ReasonUnknown = "the client does not know it"

// Orphan is a layer that nobody needs any more.
type Orphan struct {
	Name    string `json:"name,omitempty"`
	ID      string `json:"id,omitempty"`
	Size    *int64 `json:"size,omitempty"` // bytes on disk that its removal frees, parents not counted; nil if nobody can tell
	Reason  string `json:"reason"`
	Removed bool   `json:"removed"`
}
