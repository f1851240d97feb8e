// Package control is the second protocol on the plugin's socket: what people and scripts ask of a
// running store, and the operations that Docker's GraphDriver protocol has no words for.
//
// It is JSON over HTTP below /strata/v1/, and /metrics for Prometheus. Whoever may open the socket
// may do everything; the socket belongs to root with mode 0600.
//
//	GET  version                         Version
//	GET  info                            Info
//	GET  layers                          list of store.Info
//	GET  tree                            list of Node
//	GET  stores                          list of roots of additional read-only stores
//	GET  usage                           events: usage, of removed layers, too, as long as their data is there
//	GET  leaving                         list of store.Leaving
//	GET  options                         list of config.Setting
//	POST options        {KEY: VALUE}     list of config.Outcome
//	POST check          CheckRequest     events: progress, finding
//	POST gc             GCRequest        events: orphan
//	POST adopt          AdoptRequest     list of store.Adoption
//	GET  layers/NAME                     store.Info
//	GET  layers/NAME/usage               backend.Usage: of the layer itself, parents not counted
//	GET  layers/NAME/path                LayerPath
//	GET  layers/NAME/changes?parent=P    list of PathChange
//	GET  layers/NAME/diff?parent=P       a layer tar; P "" is the empty tree, no P the layer's parent
//	GET  layers/NAME/export              a tar of the whole tree
//	POST layers/NAME/clone  CloneRequest make NAME a copy of a template
//	POST layers/NAME/idmap  IDMapRequest change how the layer's owners are stored
//
// An answer of events is one JSON object a line, written as things happen, and ends with one that
// has "done" or "error"; without either it was cut. Every other failure has a status of 400 or more and
// a body of [Error]. A tar that cannot be completed ends with a broken connection.
package control

import (
	"context"
	"io"
	"iter"

	"strata/backend"
	"strata/backend/store"
	"strata/plugin/config"
)

const (
	prefix = "/strata/v1/"
	// maxBody bounds the body of a request that is answered with events, bytes, as plugin.MaxJSON bounds others. The largest is
	// GCRequest: 80 bytes a name make room for 400,000 layers.
	maxBody = 32 << 20
)

// Reader is the part of a store that looks. *store.Store and *Client have it.
type Reader interface {
	Info(ctx context.Context) (store.StoreInfo, error)
	List(ctx context.Context) ([]store.Info, error)
	Stat(ctx context.Context, name string) (store.Info, error)
	Usage(ctx context.Context, name string) (backend.Usage, error)
	Leaving(ctx context.Context) ([]store.Leaving, error)
	Changes(ctx context.Context, name, parent string) iter.Seq2[backend.Change, error]
	Diff(ctx context.Context, name, parent string, w io.Writer) error
}

// Writer is the part of a store that changes something. *store.Store and *Client have it.
type Writer interface {
	Check(ctx context.Context, o store.CheckOptions) ([]store.Finding, error)
	GC(ctx context.Context, o store.GCOptions) ([]store.Orphan, error)
	Adopt(ctx context.Context, yes bool) ([]store.Adoption, error)
	Clone(ctx context.Context, name, template string, o store.CreateOptions) error
	SetIDMap(ctx context.Context, name string, m *backend.IDMap) error
}

// Store is all that the control API needs of a store.
type Store interface {
	Reader
	Writer
}

// Settings are the options of the running process. Safe for concurrent use.
type Settings interface {
	// Options lists every setting that is in force, and what is recorded for the next start.
	Options(ctx context.Context) ([]config.Setting, error)
	// SetOptions changes settings, all or, on an error, none.
	SetOptions(ctx context.Context, values map[string]string) ([]config.Outcome, error)
}

// Version tells which program answers.
type Version struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"` // commit it was built from
	Go       string `json:"go"`
}

// Place tells how a store in a container looks from the host.
type Place struct {
	HostRoot string   `json:"hostRoot"`           // the store's directory on the host
	Warnings []string `json:"warnings,omitempty"` // what is not as it should be
}

// Info describes a store and the process that has it open.
type Info struct {
	store.StoreInfo
	Place
	Version Version `json:"version"`
}

// LayerUsage is what one layer itself occupies.
type LayerUsage struct {
	Name    string `json:"name"`
	Size    int64  `json:"size"` // bytes on disk
	Inodes  int64  `json:"inodes"`
	Removed string `json:"removed,omitempty"` // of a layer that was removed, why its data is there
	Damaged string `json:"damaged,omitempty"` // why the layer could not be measured; then Size and Inodes are 0
}

// LayerPath tells where a layer is mounted, or would be.
type LayerPath struct {
	ID       string `json:"id"`
	MountDir string `json:"mountDir"` // as dockerd sees it
	Mounted  bool   `json:"mounted"`
	Store    string `json:"store,omitempty"` // the additional store it lies in
}

// PathChange is a backend.Change with its kind in words.
type PathChange struct {
	Path string `json:"path"`
	Kind string `json:"kind"` // added, modified or deleted
}

// CheckRequest says how thoroughly to check.
type CheckRequest struct {
	Deep   bool `json:"deep"`
	Repair bool `json:"repair"`
}

// GCRequest says what to compare the store with. A missing list and an empty one differ: without one only
// what the store itself can tell to be an orphan is listed.
type GCRequest struct {
	Known  *[]string `json:"known,omitempty"`
	Listed *[]string `json:"listed,omitempty"` // IDs of the layers that may be removed, nil for all
	Yes    bool      `json:"yes"`
}

// AdoptRequest says whether to take in what is found, or only to list it.
type AdoptRequest struct {
	Yes bool `json:"yes"`
}

// CloneRequest names the template of a new layer.
type CloneRequest struct {
	Template string            `json:"template"`
	Limit    int64             `json:"limit,omitempty"` // bytes
	Label    string            `json:"label,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	IDMap    *backend.IDMap    `json:"idmap,omitempty"`
}

// IDMapRequest says how the owners in a layer shall be stored; null is as the container sees them.
type IDMapRequest struct {
	IDMap *backend.IDMap `json:"idmap"`
}

// event is one line of an answer that takes its time. One member is set.
type event struct {
	Progress *progress      `json:"progress,omitempty"`
	Finding  *store.Finding `json:"finding,omitempty"`
	Orphan   *store.Orphan  `json:"orphan,omitempty"`
	Usage    *LayerUsage    `json:"usage,omitempty"`
	Error    *Error         `json:"error,omitempty"`
	Done     bool           `json:"done,omitempty"`
}

type progress struct {
	Done  int `json:"done"`
	Total int `json:"total"`
}
