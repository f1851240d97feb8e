package backendtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"strata/backend"
)

// memSink fills a tree. Deletions delete.
type memSink struct {
	root *memNode
	ctx  context.Context //nolint:containedctx // it lives as long as the call that gave it to Begin
	host backend.Unpacker

	uid, gid uint32 // root's, as the tree has them
}

// Sink returns a sink that puts what a tar holds into the tree. Owners are as the tar has them.
func (t *MemoryTree) Sink() backend.Sink { return &memSink{root: t.root} }

// Begin implements backend.Sink.
func (s *memSink) Begin(ctx context.Context, u backend.Unpacker) error {
	s.ctx, s.host = ctx, u
	return nil
}

// Finish implements backend.Sink.
func (s *memSink) Finish() error { return context.Cause(s.ctx) }

// Close implements backend.Sink. What the next tar finds is not its own.
func (s *memSink) Close() error {
	s.root.walk(func(_ string, n *memNode) { n.made, n.tells, n.late, n.record = false, false, false, 0 })
	return nil
}

// Put implements backend.Sink.
func (s *memSink) Put(e *backend.Entry, c backend.Content) (at string, err error) {
	if e.Path == "." {
		s.root.dress(e)
		return ".", nil
	}
	dir, base, err := s.parent(e.Path)
	if err != nil {
		return "", err
	}
	n := dir.children[base]
	if n != nil && n.isDir() && e.Mode&modeType == modeDir {
		n.dress(e)
		n.made, n.tells = true, true
		return n.path(), nil
	}
	if err := s.drop(n); err != nil {
		return "", err
	}
	n = newMemDir(dir, base)
	n.made, n.tells, n.record = true, true, e.Record
	n.dress(e)
	if !n.isDir() {
		n.children = nil
	}
	dir.children[base] = n
	return n.path(), n.read(e, c)
}

// dress gives the file all the properties of an entry.
func (f *memFile) dress(e *backend.Entry) {
	f.mode, f.uid, f.gid, f.atime, f.mtime = e.Mode, e.UID, e.GID, e.Atime, e.Mtime
	f.target, f.major, f.minor = "", 0, 0
	switch e.Mode & modeType {
	case modeSymlink:
		f.target, f.mode = e.Target, modeSymlink|0o777
	case modeChar, modeBlock:
		f.major, f.minor = e.Major, e.Minor
	}
	f.xattrs = nil
	f.setXattrs(e.Xattrs)
}

func (f *memFile) setXattrs(list []backend.Xattr) {
	for _, x := range list {
		if f.xattrs == nil {
			f.xattrs = map[string]string{}
		}
		f.xattrs[x.Name] = x.Value
	}
}

// read takes the content of a regular file.
func (f *memFile) read(e *backend.Entry, c backend.Content) error {
	if e.Mode&modeType != modeFile {
		return nil
	}
	f.size = e.Size
	for c.Left() > 0 {
		x, err := c.Next()
		if err != nil {
			return err
		}
		f.data = append(f.data, memData{x.Offset, append([]byte(nil), x.Data...)})
		x.Release()
	}
	return nil
}

func (n *memNode) isDir() bool { return n.mode&modeType == modeDir }

// drop takes a name, and all that it holds, out of the tree. The log gets what it refers to.
func (s *memSink) drop(n *memNode) error {
	if n == nil {
		return nil
	}
	var err error
	n.walk(func(_ string, n *memNode) {
		if n.record != 0 && err == nil {
			err = s.host.Save(n.record, memReader{n.memFile})
		}
	})
	delete(n.up.children, n.name)
	return err
}

// memReader reads a file.
type memReader struct{ *memFile }

// ReadAt implements io.ReaderAt.
func (r memReader) ReadAt(p []byte, offset int64) (int, error) {
	n := int(max(min(int64(len(p)), r.size-offset), 0))
	r.fill(p[:n], offset)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// parent returns the directory that the last name of a path is in, which it makes.
func (s *memSink) parent(p string) (dir *memNode, base string, err error) {
	up, base := path.Split(p)
	dir, err = s.find(up, true)
	return dir, base, err
}

// maxMemLinks is how many symlinks a path may lead through; the kernel's own limit.
const maxMemLinks = 40

// find returns the directory at a path. With imply it makes what is missing.
func (s *memSink) find(p string, imply bool) (*memNode, error) {
	at, todo := s.root, strings.Split(p, "/")
	for links := 0; len(todo) > 0; {
		if err := context.Cause(s.ctx); err != nil {
			return nil, err
		}
		part := todo[0]
		todo = todo[1:]
		next, target, err := s.step(at, part, imply)
		if err != nil {
			return nil, fmt.Errorf("open directory %q: %w", p, err)
		}
		at = next
		if target == "" {
			continue
		}
		if links++; links > maxMemLinks {
			return nil, fmt.Errorf("open directory %q: %w", p, syscall.ELOOP)
		}
		if strings.HasPrefix(target, "/") {
			at = s.root
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return at, nil
}

// step goes from a directory to a name in it. For a symlink it stays, and returns the target.
func (s *memSink) step(at *memNode, part string, imply bool) (next *memNode, target string, err error) {
	switch part {
	case "", ".":
		return at, "", nil
	case "..":
		if at.up == nil {
			return at, "", nil
		}
		return at.up, "", nil
	}
	n := at.children[part]
	switch {
	case n != nil && n.isDir():
		return n, "", nil
	case n != nil && n.mode&modeType == modeSymlink:
		return at, n.target, nil
	case n != nil && (!imply || !n.late):
		return nil, "", syscall.ENOTDIR
	case !imply:
		return nil, "", syscall.ENOENT
	}
	n = newMemDir(at, part)
	*n.memFile = s.implied()
	n.made = true
	at.children[part] = n
	return n, "", nil
}

// Link implements backend.Sink.
func (s *memSink) Link(e *backend.Entry, last bool) (at string, late bool, err error) {
	if n := s.root.at(e.Path); last && (n == nil || !n.late) {
		return e.Path, false, nil
	}
	dir, base, err := s.parent(e.Path)
	if err != nil {
		return "", false, err
	}
	n := dir.children[base]
	at = (&memNode{up: dir, name: base}).path()
	if last || e.Target != at {
		if err := s.drop(n); err != nil {
			return "", false, err
		}
	}
	err = s.link(e, dir, base)
	if !errors.Is(err, syscall.ENOENT) {
		return at, false, err
	}
	if last {
		return "", false, fmt.Errorf("%w: no file of the layer has this name: %w", err, errdefs.ErrInvalidArgument)
	}
	dir.children[base] = &memNode{memFile: &memFile{mode: modeFile}, up: dir, name: base, made: true, late: true}
	return at, true, nil
}

// link makes base in dir a link to what is there.
func (s *memSink) link(e *backend.Entry, dir *memNode, base string) error {
	up, name := path.Split(e.Target)
	from, err := s.find(up, false)
	if err != nil {
		return fmt.Errorf("link to %q: %w", e.Target, err)
	}
	n := from.children[name]
	switch {
	case n == nil && name != ".", n != nil && n.late:
		return fmt.Errorf("link to %q: %w", e.Target, syscall.ENOENT)
	case n == nil, n.isDir(), from == dir && name == base:
		return fmt.Errorf("link to %q, which is itself or a directory: %w", e.Target, errdefs.ErrInvalidArgument)
	}
	dir.children[base] = &memNode{memFile: n.memFile, up: dir, name: base, made: true}
	if e.Bare {
		return nil
	}
	n.uid, n.gid, n.atime, n.mtime = e.UID, e.GID, e.Atime, e.Mtime
	if n.mode&modeType != modeSymlink {
		n.mode = n.mode&modeType | e.Mode&^modeType
	}
	n.setXattrs(e.Xattrs)
	return nil
}

// Hide implements backend.Sink.
func (s *memSink) Hide(p string) error {
	up, base := path.Split(p)
	dir, err := s.find(up, false)
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	if n := dir.children[base]; n != nil {
		_, err = s.prune(n)
	}
	return err
}

// Opaque implements backend.Sink.
func (s *memSink) Opaque(p string) error {
	dir := s.root
	if p != "." {
		up, base := path.Split(p)
		at, err := s.find(up, false)
		if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENOTDIR) {
			return nil
		}
		if err != nil {
			return err
		}
		if dir = at.children[base]; dir == nil || !dir.isDir() {
			return nil
		}
	}
	for _, n := range dir.children {
		if _, err := s.prune(n); err != nil {
			return err
		}
	}
	return nil
}

// prune drops what the tar has not put there, and reports whether that was all. A directory that stays
// without having been described is one that has just been implied.
func (s *memSink) prune(n *memNode) (gone bool, err error) {
	if !n.isDir() {
		if n.made {
			return false, nil
		}
		return true, s.drop(n)
	}
	empty := true
	for _, child := range n.children {
		gone, err := s.prune(child)
		if err != nil {
			return false, err
		}
		empty = empty && gone
	}
	if n.tells {
		return false, nil
	}
	if empty {
		return true, s.drop(n)
	}
	*n.memFile = s.implied()
	n.made = true
	return false, nil
}

// implied is a directory that nothing describes.
func (s *memSink) implied() memFile {
	now := time.Now()
	return memFile{mode: modeDir | 0o755, uid: s.uid, gid: s.gid, atime: now, mtime: now}
}

// Remove implements backend.Sink.
func (s *memSink) Remove(p string) error {
	dir, base, err := s.parent(p)
	if err != nil {
		return err
	}
	return s.drop(dir.children[base])
}
