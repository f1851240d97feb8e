package backend

import (
	"context"
	"io"
	"time"
)

// Sinker keeps layers where no process reaches single files, such as in disk images. The store reads
// the tar, cleans names, reads whiteouts, orders hard links and keeps the log of exact diffs; the
// backend takes entries and gives contents back. Without it the store unpacks into Placer's directory
// or a mount.
type Sinker interface {
	// Sink opens a layer to be filled. It may hold what earlier sinks have put there. Sinks of different
	// layers are used at the same time.
	Sink(ctx context.Context, l Layer) (Sink, error)
	// Source opens the contents that a sink of the layer has taken; of a layer in Env.Stores, too. Several
	// may be open.
	Source(ctx context.Context, l Layer) (Source, error)
}

// Sink takes the entries of one layer tar, in the order of the tar, from one goroutine. Begin comes
// first, Finish last, and Close after that or after any error; Close may come twice.
//
// Paths are clean and relative to the layer's root, which is "."; none leads out of it. A symlink
// within a path is followed as if the root were "/", the last name is not. Parents that are not there
// are made: as they look in the layers below, times included, else with mode 0755, the time that it is
// then, and root for an owner, which with an IDMap is the one that IDMap.Root returns. What is there
// gives way to what comes, whole trees included, but a directory to a directory: then the properties
// change, and nothing else.
//
// An error ends the tar. The layer then holds some part of it, and is removed. ErrInvalidArgument says
// that the tar asks for what cannot be. A sink makes nothing durable: once Finish has returned, the
// store syncs the file system of Home, or seals the layer of a ContentSyncer, before it notes the layer
// as complete.
type Sink interface {
	// Begin comes before everything else. u stays until Close. The context ends when unpacking stops.
	Begin(ctx context.Context, u Unpacker) error
	// Put makes the file, or the directory, that e describes. It takes all of a regular file's content
	// before it returns, and may write it later. at is where Source finds the file: the path without
	// symlinks. e is the caller's again when Put returns, but for its strings and Xattrs.
	Put(e *Entry, c Content) (at string, err error)
	// Link makes e.Path a hard link to e.Target and gives that file e's properties, unless e.Bare is
	// set. A target that may still come is no error: late is set, something stands at e.Path until
	// then, and at is its path without symlinks. After the last entry Link is called again for each of
	// those, with e.Path at and last set, targets before what leads to them. It then does nothing if
	// the stand-in has given way to something else, and a target that is not there is an error.
	Link(e *Entry, last bool) (at string, late bool, err error)
	// Hide hides what the layers below have at a path, and spares what Put and Link have made there.
	// Where nothing is to be hidden, it makes nothing.
	Hide(path string) error
	// Opaque does this for all that the layers below have in a directory. Where path is no directory, or
	// a symlink, it does nothing.
	Opaque(path string) error
	// Remove removes a directory, which Put made, with all that it holds.
	Remove(path string) error
	// Finish completes the layer after the last entry. It is an error if the context has ended, which
	// Unpacker.Fail may have done: the layer lacks something then.
	Finish() error
	// Close ends the use of the layer.
	Close() error
}

// Unpacker is who drives a sink.
type Unpacker interface {
	// Save keeps the content of a file that is about to go, if record, its Entry.Record, is not 0. It is
	// called within a method of the sink, before the file goes. An error ends that method.
	Save(record uint64, content io.ReaderAt) error
	// LeaveOut notes an attribute that the file of an entry of this name cannot have. It may be called from any
	// goroutine.
	LeaveOut(attribute, name string, why error)
	// Fail ends unpacking with an error. It may be called from any goroutine; the first error counts.
	Fail(err error)
}

// Entry is one entry of a layer tar as it is to be stored.
type Entry struct {
	Name         string // in the tar, for messages
	Path         string
	Mode         uint32 // st_mode, type included
	UID, GID     uint32 // as the layer stores them
	Atime, Mtime time.Time
	Target       string // of a symlink; of a hard link, a path
	Major, Minor uint32 // of a device
	Size         int64  // of a regular file, bytes, holes included
	Xattrs       []Xattr
	Record       uint64 // for Unpacker.Save; 0 says that nobody asks for the content again
	Bare         bool   // a hard link without properties of its own
}

// Xattr is an extended attribute.
type Xattr struct{ Name, Value string }

// Content is the data of one regular file, in order. It is for the goroutine that called Put, until
// Put returns.
type Content interface {
	// Left is how many bytes are still to come, holes not counted.
	Left() int64
	// Next returns the bytes that come next, at least one, or io.EOF.
	Next() (Extent, error)
}

// Extent is a run of bytes in a file. Memory is bounded: reading waits until extents are released.
type Extent struct {
	Offset int64
	Data   []byte
	Block  interface{ Release() } // may be nil
}

// Release gives the bytes back. They are not to be used any more.
func (e *Extent) Release() {
	if e.Block != nil {
		e.Block.Release()
		e.Block = nil
	}
}

// Source gives back the contents of the files that a sink has taken. It may be used by several
// goroutines.
type Source interface {
	// Reader returns a reader for one goroutine.
	Reader() SourceReader
	Close() error
}

// SourceReader reads files of a source.
type SourceReader interface {
	// ReadFile fills p with bytes from an offset of the file that Put said is at this path. A file that
	// is not there, is no regular file or has another size is an errdefs.ErrDataLoss.
	ReadFile(at string, size int64, p []byte, offset int64) error
	Close() error
}
