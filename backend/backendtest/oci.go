package backendtest

import (
	"archive/tar"
	"errors"
	"math/rand/v2"
	"os"
	"path"
	"strings"
	"time"
)

// stack is what layers show together by the OCI image specification (layer.md), kept in memory: the answer that a
// backend's own must be equal to. Marks act on the layers below alone, whatever order a layer has its entries in.
type stack struct{ root *stackNode }

// stackNode is a file in a stack.
type stackNode struct {
	Entry
	files map[string]*stackNode // nil for all but directories
	own   bool                  // the layer that is being added has put it there
	named bool                  // own, and not implied only
}

// errRefused says that a layer is to be refused.
var errRefused = errors.New("refused")

func newStack() *stack { return &stack{root: newStackDir(0o755, 0, 0)} }

func newStackDir(mode os.FileMode, uid, gid uint32) *stackNode {
	return &stackNode{Entry: Entry{Mode: os.ModeDir | mode, UID: uid, GID: gid, Time: justNow}, files: map[string]*stackNode{}}
}

// with returns the stack with one more layer, or errRefused.
func (s *stack) with(layer []member) (*stack, error) {
	next := &stack{root: s.root.clone()}
	for _, m := range layer {
		if err := next.add(m); err != nil {
			return nil, err
		}
	}
	return next, nil
}

func (n *stackNode) clone() *stackNode {
	c := &stackNode{Entry: n.Entry}
	if n.files == nil {
		return c
	}
	c.files = map[string]*stackNode{}
	for name, f := range n.files {
		c.files[name] = f.clone()
	}
	return c
}

func (s *stack) add(m member) error {
	dir, base := path.Split(strings.TrimSuffix(m.Name, "/"))
	switch {
	case base == ".wh..wh..opq":
		chain, err := s.resolve(path.Clean(dir), false)
		if err != nil || chain == nil || s.isLink(path.Clean(dir)) {
			return err
		}
		chain[len(chain)-1].hideAll()
	case strings.HasPrefix(base, ".wh."):
		chain, err := s.resolve(path.Clean(dir), false)
		if err != nil || chain == nil {
			return err
		}
		chain[len(chain)-1].hide(strings.TrimPrefix(base, ".wh."))
	default:
		chain, err := s.resolve(path.Clean(dir), true)
		if err != nil {
			return err
		}
		chain[len(chain)-1].put(base, m)
	}
	return nil
}

// resolve follows a path through symlinks and returns the directories on the way. Where one is missing it is made, or
// there is no answer.
func (s *stack) resolve(name string, imply bool) ([]*stackNode, error) {
	at := []*stackNode{s.root}
	todo := strings.Split(name, "/")
	for links := 0; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		if part == "" || part == "." {
			continue
		}
		if part == ".." {
			at = at[:max(1, len(at)-1)]
			continue
		}
		dir := at[len(at)-1]
		f := dir.files[part]
		switch {
		case f == nil && !imply:
			return nil, nil
		case f == nil:
			f = newStackDir(0o755, 0, 0)
			f.own = true
			dir.files[part] = f
		case f.Mode.Type() == os.ModeSymlink:
			if links++; links > 40 {
				return nil, errRefused
			}
			if strings.HasPrefix(f.Target, "/") {
				at = at[:1]
			}
			todo = append(strings.Split(f.Target, "/"), todo...)
			continue
		case f.files == nil && !imply:
			return nil, nil
		case f.files == nil:
			return nil, errRefused
		}
		at = append(at, f)
	}
	return at, nil
}

// isLink tells that the last name in a path is a symlink's.
func (s *stack) isLink(name string) bool {
	dir, base := path.Split(name)
	chain, err := s.resolve(path.Clean(dir), false)
	if err != nil || chain == nil {
		return false
	}
	f := chain[len(chain)-1].files[base]
	return f != nil && f.Mode.Type() == os.ModeSymlink
}

// put makes an ordinary entry in a directory.
func (n *stackNode) put(base string, m member) {
	f := &stackNode{Entry: entryOf(m), own: true, named: true}
	if m.Typeflag == tar.TypeDir {
		f.files = map[string]*stackNode{}
		if was := n.files[base]; was != nil && was.files != nil {
			f.files = was.files
		}
	}
	n.files[base] = f
}

// hideAll hides what the layers below have in a directory.
func (n *stackNode) hideAll() {
	for name := range n.files {
		n.hide(name)
	}
}

// hide hides what the layers below have under a name. A directory in which the layer has put something stays.
func (n *stackNode) hide(name string) {
	f := n.files[name]
	switch {
	case f == nil || f.own && f.files == nil:
		return
	case f.files == nil:
		delete(n.files, name)
		return
	}
	f.hideAll()
	switch {
	case f.named:
	case len(f.files) == 0:
		delete(n.files, name)
	default:
		f.Entry, f.own = newStackDir(0o755, 0, 0).Entry, true
	}
}

// tree returns what the stack shows, without the root.
func (s *stack) tree() Tree {
	t := Tree{}
	s.root.list("", t)
	return t
}

func (n *stackNode) list(dir string, t Tree) {
	for name, f := range n.files {
		t[dir+name] = f.Entry
		f.list(dir+name+"/", t)
	}
}

func entryOf(m member) Entry {
	e := Entry{Mode: m.FileInfo().Mode(), UID: uint32(m.Uid), GID: uint32(m.Gid), Time: m.ModTime.UTC(), Xattrs: map[string]string{}}
	for name, value := range m.PAXRecords {
		e.Xattrs[strings.TrimPrefix(name, "SCHILY.xattr.")] = value
	}
	if len(e.Xattrs) == 0 {
		e.Xattrs = nil
	}
	switch m.Typeflag {
	case tar.TypeReg:
		e.Size, e.Digest = int64(len(m.body)), digest(m.body)
	case tar.TypeSymlink:
		e.Target = m.Linkname
	}
	return e
}

// randomLayer makes a layer of entries and marks whose names often meet. links says that there may be symlinks.
func randomLayer(rnd *rand.Rand, links bool) []member {
	names := []string{"a", "b", "c"}
	pick := func(s []string) string { return s[rnd.IntN(len(s))] }
	list := make([]member, 1+rnd.IntN(8))
	for i := range list {
		dir := ""
		for range rnd.IntN(3) {
			dir += pick(names) + "/"
		}
		m := file(dir+pick(names), pick([]string{"", "x", "xyz"}))
		switch n := rnd.IntN(20); {
		case n < 5:
			m = directory(m.Name)
			m.Mode = int64(0o700 | rnd.IntN(0o100))
			if rnd.IntN(3) == 0 {
				m.PAXRecords = map[string]string{"SCHILY.xattr.user.k": pick(names)}
			}
		case n < 10:
			m = file(dir+".wh."+pick(names), "")
		case n < 12:
			m = file(dir+".wh..wh..opq", "")
		case n < 14 && links:
			m = sym(pick([]string{"a", "b", "../c", "/a/b", "b/..", "nowhere"}), m.Name)
		}
		m.Uid, m.Gid = rnd.IntN(3), rnd.IntN(3)
		m.ModTime = old.Add(time.Duration(rnd.IntN(9)) * time.Hour)
		list[i] = m
	}
	return list
}
