package upper

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"strata/backend"
	"strata/backend/internal/dirfd"
	"strata/backend/internal/idmap"
)

// maxStacks bounds what below remembers: directories, and the layers that each is in.
const maxStacks = 1 << 16

// farPath is from which length on, bytes, a directory is opened to look into it, not named from the root: the kernel would go
// through all of its path each time.
const farPath = 256

// below is what a layer's parents show together, read from their upper directories.
type below struct {
	walker *walker
	ids    *backend.IDMap // of the layer above
	mapped bool           // owners are shown with it, whatever the parents' maps are
	root   []lower        // the parents' upper directories, nearest first
	// stacks are the directories, with those of the roots that show in them: a path leads through directories only in each.
	// Those that are far are not among them.
	stacks map[string][]lower
	size   int // of stacks
	// far are the far directories that were looked into last, that one first. Mostly the next one is in one of them.
	far [2]farDir
}

// farDir is a directory with those of the parents that show in it, open.
type farDir struct {
	dir    string
	lowers []lower
}

func (m *farDir) close() { closeAll(m.lowers) }

// above tells that m is, or has in it, the directory at a path.
func (m *farDir) above(dir string) bool {
	return m.dir != "" && strings.HasPrefix(dir, m.dir) && (len(dir) == len(m.dir) || dir[len(m.dir)] == '/')
}

// shown is how much of a path a message shows, bytes.
const shown = 1024

// shorten leaves out the middle of the paths that are for messages: put together for each directory they would cost more than it.
func (m *farDir) shorten(base string) {
	for i := range m.lowers {
		if p := m.lowers[i].Path; len(p) > shown {
			m.lowers[i].Path = p[:shown/2] + "[...]/" + base
		}
	}
}

// Below opens the view of what layers show together, the nearest first, for a layer above that stores owners by an ID
// map. mapped says that a mount of that one shows the others' owners by its map, too.
func Below(m Marks, layers []Layer, ids *backend.IDMap, mapped bool) (backend.Below, error) {
	b := &below{walker: &walker{marks: m}, ids: ids, mapped: mapped, stacks: map[string][]lower{}}
	for _, l := range layers {
		d, err := dirfd.Open(l.Dir)
		if err != nil {
			return nil, errors.Join(err, b.Close())
		}
		b.root = append(b.root, lower{Dir: d, ids: l.IDs, whiteouts: true})
	}
	return b, nil
}

func closeAll(lowers []lower) {
	for _, l := range lowers {
		l.Close()
	}
}

// Close closes the parents' directories.
func (b *below) Close() error {
	for i := range b.far {
		b.far[i].close()
	}
	closeAll(b.root)
	b.root, b.far = nil, [2]farDir{}
	return nil
}

// Lookup finds a path as the kernel would.
func (b *below) Lookup(name string) (*backend.Node, error) {
	dir, base := ".", name
	if i := strings.LastIndexByte(name, '/'); i >= 0 { // not path.Split: it and its kind look at each byte
		dir, base = name[:i], name[i+1:]
	}
	lowers, rest, err := b.toward(dir)
	if lowers == nil || err != nil {
		return nil, err
	}
	f, err := b.walker.lookup(lowers, path.Join(rest, base))
	if f == nil || err != nil {
		return nil, dirfd.IgnoreVanished(err)
	}
	return b.node(f)
}

// toward returns where to look into a directory, nil if it is none, and the way to it from there.
func (b *below) toward(dir string) (lowers []lower, rest string, err error) {
	if len(dir) <= farPath {
		lowers, err = b.stack(dir)
		return lowers, dir, err
	}
	lowers, err = b.open(dir)
	return lowers, ".", err
}

// open opens a far directory, from one that is open already or from the last one on the way that is not far.
func (b *below) open(dir string) ([]lower, error) {
	at := b.nearest(dir)
	if at.dir == "" {
		near := dir[:strings.LastIndexByte(dir[:farPath], '/')+1]
		if near == "" { // the kernel has no name as long as that
			return nil, nil
		}
		at.dir = near[:len(near)-1]
		lowers, err := b.stack(at.dir)
		if lowers == nil || err != nil {
			return nil, err
		}
		if at.lowers, err = descend(lowers, at.dir); err != nil {
			return nil, err
		}
		b.keep(at)
	}
	for len(at.dir) < len(dir) {
		part, _, _ := strings.Cut(dir[len(at.dir)+1:], "/")
		f, err := b.walker.lookup(at.lowers, part)
		if f == nil || err != nil {
			return nil, dirfd.IgnoreVanished(err)
		}
		lowers, err := f.open(at.lowers, part)
		if lowers == nil || err != nil {
			return nil, dirfd.IgnoreVanished(err)
		}
		at = farDir{dir: dir[:len(at.dir)+1+len(part)], lowers: lowers}
		at.shorten(part)
		b.keep(at)
	}
	return at.lowers, nil
}

// open opens the directories that lookup found.
func (f *found) open(lowers []lower, name string) (opened []lower, err error) {
	for _, p := range f.stack {
		l := lowers[p.index]
		d, err := l.Open(name)
		if err != nil {
			closeAll(opened)
			return nil, err
		}
		opened = append(opened, lower{Dir: d, ids: l.ids, whiteouts: p.whiteouts})
	}
	return opened, nil
}

// nearest returns the open far directory that is nearest above another or is that itself, nothing if there is none.
func (b *below) nearest(dir string) farDir {
	best := -1
	for i, m := range b.far {
		if m.above(dir) && (best < 0 || len(m.dir) > len(b.far[best].dir)) {
			best = i
		}
	}
	if best < 0 {
		return farDir{}
	}
	b.far[0], b.far[best] = b.far[best], b.far[0]
	return b.far[0]
}

// keep remembers an open far directory in place of the one that was not used for longer.
func (b *below) keep(m farDir) {
	b.far[1].close()
	b.far[0], b.far[1] = m, b.far[0]
}

// descend opens a directory in each of those that it shows in.
func descend(lowers []lower, dir string) (opened []lower, err error) {
	for _, l := range lowers {
		d, err := l.Open(dir)
		if err != nil {
			closeAll(opened)
			return nil, err
		}
		opened = append(opened, lower{Dir: d, ids: l.ids, whiteouts: l.whiteouts})
	}
	return opened, nil
}

// stack returns the roots that show in a directory, nil if it is none.
func (b *below) stack(dir string) ([]lower, error) {
	if dir == "." {
		return b.root, nil
	}
	if s, ok := b.stacks[dir]; ok {
		return s, nil
	}
	above, err := b.stack(path.Dir(dir))
	if above == nil || err != nil {
		return nil, err
	}
	f, err := b.walker.lookup(above, dir)
	if err = dirfd.IgnoreVanished(err); err != nil {
		return nil, err
	}
	var s []lower
	if f != nil {
		for _, p := range f.stack {
			l := above[p.index]
			s = append(s, lower{Dir: l.Dir, ids: l.ids, whiteouts: p.whiteouts})
		}
	}
	if b.size += 1 + len(s); b.size > maxStacks {
		clear(b.stacks)
		b.size = 1 + len(s)
	}
	b.stacks[dir] = s
	return s, nil
}

// Names lists a directory, without whiteouts and what they hide.
func (b *below) Names(dir string) ([]string, error) {
	lowers, rest, err := b.toward(dir)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, l := range lowers {
		d, err := l.Open(rest)
		if err != nil {
			return nil, err
		}
		entries, err := d.Entries()
		d.Close()
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			all = append(all, e.Name)
		}
	}
	slices.Sort(all)
	all = slices.Compact(all)
	seen := all[:0]
	for _, name := range all {
		f, err := b.walker.lookup(lowers, path.Join(rest, name))
		if err = dirfd.IgnoreVanished(err); err != nil {
			return nil, err
		}
		if f != nil {
			seen = append(seen, name)
		}
	}
	return seen, nil
}

// node describes what lookup found.
func (b *below) node(f *found) (*backend.Node, error) {
	st := &f.top.Stat
	n := &backend.Node{
		Mode: st.Mode, UID: st.Uid, GID: st.Gid,
		Atime: time.Unix(st.Atim.Unix()), Mtime: time.Unix(st.Mtim.Unix()),
	}
	var err error
	switch f.top.Kind() {
	case unix.S_IFLNK:
		n.Target, err = f.top.Dir.Readlink(f.top.Name, st.Size)
	case unix.S_IFDIR:
		err = b.describe(n, f)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", f.top.Path(), err)
	}
	return n, nil
}

// describe gives n the attributes of a directory, with owners as the layer above stores them.
func (b *below) describe(n *backend.Node, f *found) (err error) {
	ids := b.ids
	if !b.mapped {
		ids = f.ids
	}
	if n.UID, n.GID, err = idmap.Owner(f.ids, ids, n.UID, n.GID); err != nil {
		return err
	}
	list, err := f.top.Dir.File(f.top.Name).Xattrs(b.walker.marks.IsNone)
	if err != nil {
		return err
	}
	n.Xattrs = map[string]string{}
	for _, x := range list {
		if err := idmap.Attribute(f.ids, ids, x.Name, x.Value); err != nil {
			return err
		}
		n.Xattrs[x.Name] = string(x.Value)
	}
	return nil
}
