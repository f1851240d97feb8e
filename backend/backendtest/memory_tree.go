package backendtest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"strata/backend"
)

// Types of files in st_mode.
const (
	modeType    = 0o170000
	modeDir     = 0o040000
	modeFile    = 0o100000
	modeSymlink = 0o120000
	modeChar    = 0o020000
	modeBlock   = 0o060000
)

// MemoryTree is a file tree in memory. It is for one goroutine, but may be read by several at a time.
type MemoryTree struct{ root *memNode }

// memNode is a name in a tree.
type memNode struct {
	*memFile
	up       *memNode // the directory that it is in; nil for the root
	name     string
	children map[string]*memNode // of a directory
	record   uint64              // the entry's that made it
	made     bool                // the tar that is being unpacked put it there
	tells    bool                // and describes it, if it is a directory
	late     bool                // it stands for a hard link
}

// memFile is a file, which may have several names.
type memFile struct {
	mode         uint32
	uid, gid     uint32
	atime, mtime time.Time
	target       string
	major, minor uint32
	size         int64
	xattrs       map[string]string
	data         []memData
}

// memData is a run of bytes in a file.
type memData struct {
	offset int64
	bytes  []byte
}

// NewMemoryTree returns a tree of a directory.
func NewMemoryTree() *MemoryTree {
	return &MemoryTree{root: newMemDir(nil, "")}
}

func newMemDir(up *memNode, name string) *memNode {
	return &memNode{memFile: &memFile{mode: modeDir | 0o755}, up: up, name: name, children: map[string]*memNode{}}
}

// Clone returns a copy.
func (t *MemoryTree) Clone() *MemoryTree {
	files := map[*memFile]*memFile{}
	var clone func(n, up *memNode) *memNode
	clone = func(n, up *memNode) *memNode {
		f, ok := files[n.memFile]
		if !ok {
			own := *n.memFile
			own.xattrs = maps.Clone(own.xattrs)
			f = &own
			files[n.memFile] = f
		}
		c := &memNode{memFile: f, up: up, name: n.name}
		if n.children != nil {
			c.children = make(map[string]*memNode, len(n.children))
		}
		for name, child := range n.children {
			c.children[name] = clone(child, c)
		}
		return c
	}
	return &MemoryTree{root: clone(t.root, nil)}
}

// Snapshot describes every file, by path: mode and owner; but for directories the modification time;
// then what a file has of its kind, and attributes. Files with several names say the first of them.
func (t *MemoryTree) Snapshot() map[string]string {
	out := map[string]string{}
	names := map[*memFile]int{}
	t.root.walk(func(_ string, n *memNode) { names[n.memFile]++ })
	first := map[*memFile]string{}
	t.root.walk(func(at string, n *memNode) {
		line := n.describe()
		if names[n.memFile] > 1 {
			if _, ok := first[n.memFile]; !ok {
				first[n.memFile] = at
			}
			line += " same as " + first[n.memFile]
		}
		out[at] = line
	})
	return out
}

// Tree describes every file as ReadTree does, but for the numbers of devices.
func (t *MemoryTree) Tree() Tree {
	names := map[*memFile][]string{}
	t.root.walk(func(at string, n *memNode) { names[n.memFile] = append(names[n.memFile], at) })
	out := Tree{}
	t.root.walk(func(at string, n *memNode) {
		e := n.entry()
		if all := names[n.memFile]; len(all) > 1 {
			e.Group = slices.Min(all)
		}
		if at == "." {
			e.Time = time.Time{}
		}
		out[at] = e
	})
	return out
}

func (f *memFile) entry() Entry {
	e := Entry{Mode: os.FileMode(f.mode & 0o777), UID: f.uid, GID: f.gid, Time: f.mtime.UTC(), Target: f.target, Xattrs: f.xattrs}
	for bit, mode := range map[uint32]os.FileMode{0o4000: os.ModeSetuid, 0o2000: os.ModeSetgid, 0o1000: os.ModeSticky} {
		if f.mode&bit != 0 {
			e.Mode |= mode
		}
	}
	switch f.mode & modeType {
	case modeFile:
		e.Size, e.Digest = f.size, hex.EncodeToString(f.sum())
	case modeDir:
		e.Mode |= os.ModeDir
	case modeSymlink:
		e.Mode |= os.ModeSymlink
	case modeChar:
		e.Mode |= os.ModeDevice | os.ModeCharDevice
	case modeBlock:
		e.Mode |= os.ModeDevice
	default:
		e.Mode |= os.ModeNamedPipe
	}
	return e
}

// walk calls do for n and all that it holds, in order of names.
func (n *memNode) walk(do func(at string, n *memNode)) {
	do(n.path(), n)
	for _, name := range slices.Sorted(maps.Keys(n.children)) {
		n.children[name].walk(do)
	}
}

func (f *memFile) describe() string {
	line := fmt.Sprintf("%o %d:%d", f.mode, f.uid, f.gid)
	if f.mode&modeType != modeDir {
		line += fmt.Sprintf(" %d.%09d", f.mtime.Unix(), f.mtime.Nanosecond())
	}
	switch f.mode & modeType {
	case modeFile:
		line += fmt.Sprintf(" %d %.12x", f.size, f.sum())
	case modeSymlink:
		line += " -> " + f.target
	case modeChar, modeBlock:
		line += fmt.Sprintf(" %d:%d", f.major, f.minor)
	}
	for _, name := range slices.Sorted(maps.Keys(f.xattrs)) {
		line += fmt.Sprintf(" %s=%q", name, f.xattrs[name])
	}
	return line
}

// sum digests the content.
func (f *memFile) sum() []byte {
	h := sha256.New()
	b := make([]byte, 64<<10)
	for offset := int64(0); offset < f.size; {
		p := b[:min(int64(len(b)), f.size-offset)]
		f.fill(p, offset)
		h.Write(p)
		offset += int64(len(p))
	}
	return h.Sum(nil)
}

// fill reads bytes from an offset, zeros where there is a hole.
func (f *memFile) fill(p []byte, offset int64) {
	clear(p)
	end := offset + int64(len(p))
	for _, d := range f.data {
		last := d.offset + int64(len(d.bytes))
		if d.offset >= end || last <= offset {
			continue
		}
		from := max(offset, d.offset)
		copy(p[from-offset:], d.bytes[from-d.offset:])
	}
}

// path returns the node's path without symlinks.
func (n *memNode) path() string {
	if n.up == nil {
		return "."
	}
	if n.up.up == nil {
		return n.name
	}
	return n.up.path() + "/" + n.name
}

// at returns what is at a path below n, without following symlinks; nil for nothing.
func (n *memNode) at(path string) *memNode {
	for part := range strings.SplitSeq(path, "/") {
		if n = n.children[part]; n == nil {
			return nil
		}
	}
	return n
}

// Reader implements backend.Source.
func (t *MemoryTree) Reader() backend.SourceReader { return t }

// Close implements backend.Source and backend.SourceReader.
func (t *MemoryTree) Close() error { return nil }

// ReadFile implements backend.SourceReader.
func (t *MemoryTree) ReadFile(at string, size int64, p []byte, offset int64) error {
	n := t.root.at(at)
	if n == nil {
		return fmt.Errorf("%q is not there: %w", at, errdefs.ErrDataLoss)
	}
	if n.mode&modeType != modeFile || n.size != size || offset+int64(len(p)) > size {
		return fmt.Errorf("%q is %o with %d bytes, want a file of %d: %w", at, n.mode, n.size, size, errdefs.ErrDataLoss)
	}
	n.fill(p, offset)
	return nil
}
