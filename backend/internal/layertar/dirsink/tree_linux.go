package dirsink

import (
	"container/list"
	"errors"
	"fmt"
	"hash/maphash"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strata/backend"
	"strata/backend/internal/layertar/openat"
	"strata/backend/internal/layertar/tarcodec"
)

// dir is an open directory of the layer. Its times, if they are known, are set when it is closed,
// after everything has been made in it.
type dir struct {
	path  string // canonical: no symlink in it
	fd    int
	pins  atomic.Int32 // uses by writers and by the parser
	fresh bool         // made by this Apply: it holds nothing that this Apply did not put there
	acl   bool         // has a default ACL, which what is made in it inherits
	timed bool         // times are to be set
	times [2]unix.Timespec
	place *list.Element
}

func (d *dir) unpin() { d.pins.Add(-1) }

// made is what we know about a path that this Apply made.
type made struct {
	record  uint64 // the entry's, for backend.Unpacker.Save
	dir     bool
	fresh   bool // dir: see there
	covers  bool // dir: nothing of the layers below shows in it
	timed   bool // dir: it has times that are to stay
	implied bool // dir: no entry of its own
	lower   bool // dir: implied, with the properties of the one below
	gone    bool // a whiteout of the overlay dialects
	link    bool // an empty file in place of a hard link whose target has not come yet
}

// stays tells that no mark concerns what was made: it has nothing of the layers below.
func (m made) stays() bool { return !m.gone && (!m.dir || m.covers && !m.lower) }

// tree is the layer as the parser sees it: directories by path, and the paths made so far. It is
// used by the parser only; pins are what it shares with the writers.
type tree struct {
	root   *dir
	dirs   map[string]*dir
	room   int        // how many dirs may be
	recent *list.List // of *dir, most recent first; the root is not in it
	seed   maphash.Seed
	made   map[uint64]made // by hash of the path: a path costs 40 bytes whatever its length
	settle func() error    // waits for all writers
	alive  func() error    // why unpacking was stopped
	imply  func(parent *dir, base, path string, n *backend.Node) (*dir, error)
	opened func(path string) // called for each directory but the root
	view   view
	budget budget
	last   struct {
		path string // as asked for
		dir  *dir
	}
}

func newTree(path string, settle func() error) (*tree, error) {
	fd, err := openat.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	t := &tree{
		root:   &dir{path: ".", fd: fd},
		dirs:   map[string]*dir{},
		room:   roomForDirs(),
		recent: list.New(),
		seed:   maphash.MakeSeed(),
		made:   map[uint64]made{},
		settle: settle,
	}
	if t.root.acl, err = hasDefaultACL(fd); err != nil {
		return nil, errors.Join(fmt.Errorf("layer directory %s: %w", path, err), t.close())
	}
	return t, nil
}

// key identifies a canonical path. The seed is random, so no tar can be made to collide.
func (t *tree) key(path string) uint64 { return maphash.String(t.seed, path) }

// get returns the directory at a clean relative path, pinned. Symlinks are followed as if the
// layer's root were "/", and missing directories are made.
func (t *tree) get(path string) (*dir, error) {
	if t.last.dir != nil && t.last.path == path {
		t.last.dir.pins.Add(1)
		return t.last.dir, nil
	}
	d, err := t.lookup(path)
	if missing(err) {
		var at spot
		at, err = t.approach(path, true)
		d = at.dir
	}
	if err != nil {
		return nil, fmt.Errorf("open directory %q: %w", path, err)
	}
	t.last.path, t.last.dir = path, d
	return d, nil
}

// missing tells that a path did not lead to a directory straight away.
func missing(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR)
}

// find is get without making anything.
func (t *tree) find(path string) (spot, error) {
	d, err := t.lookup(path)
	if err == nil {
		return spot{path: path, dir: d}, nil
	}
	if missing(err) {
		var at spot
		if at, err = t.approach(path, false); err == nil {
			return at, nil
		}
	}
	return spot{}, fmt.Errorf("open directory %q: %w", path, err)
}

// lookup returns the directory at a canonical path, pinned.
func (t *tree) lookup(path string) (*dir, error) {
	if path == "." {
		t.root.pins.Add(1)
		return t.root, nil
	}
	if d, ok := t.dirs[path]; ok {
		t.recent.MoveToFront(d.place)
		d.pins.Add(1)
		return d, nil
	}
	above, rest := t.above(path)
	return t.open(above, rest, path)
}

// farPath is from which length on, bytes, a path is not looked up from the root if there is something nearer.
const farPath = 256

// above returns the open directory that is nearest above a path, and the way on from there.
func (t *tree) above(path string) (near *dir, rest string) {
	near, rest = t.root, path
	if len(path) < farPath {
		return near, rest
	}
	for e := t.recent.Front(); e != nil; e = e.Next() {
		if d, ok := e.Value.(*dir); ok && len(d.path) < len(path) && len(path)-len(d.path)-1 < len(rest) && tarcodec.Within(path, d.path) {
			near, rest = d, path[len(d.path)+1:]
		}
	}
	if near != t.root {
		t.recent.MoveToFront(near.place)
	}
	return near, rest
}

// open opens the directory called name in d, which has this canonical path, and pins it.
func (t *tree) open(d *dir, name, path string) (*dir, error) {
	d.pins.Add(1) // openDir may close directories that nobody uses
	defer d.unpin()
	fd, err := t.openDir(func() (int, error) { return openat.OpenDirAt(d.fd, name) })
	if err != nil {
		return nil, err
	}
	return t.add(path, fd)
}

// add takes over an open directory and pins it.
func (t *tree) add(path string, fd int) (*dir, error) {
	d := &dir{path: path, fd: fd}
	err := t.inspect(d)
	if err == nil {
		err = t.makeRoom()
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	t.opened(path)
	d.pins.Add(1)
	d.place = t.recent.PushFront(d)
	t.dirs[path] = d
	return d, nil
}

// inspect fills d from what is known and from the disk. A directory that was there before keeps its times, whatever is
// made in it.
func (t *tree) inspect(d *dir) error {
	m, ours := t.made[t.key(d.path)]
	d.fresh, d.timed = m.fresh, m.timed || !ours
	if d.timed {
		var st unix.Stat_t
		if err := unix.Fstat(d.fd, &st); err != nil {
			return err
		}
		d.times = [2]unix.Timespec{st.Atim, st.Mtim}
	}
	var err error
	d.acl, err = hasDefaultACL(d.fd)
	return err
}

// makeRoom closes the directories that were not used for longest, until there is room for one more.
func (t *tree) makeRoom() error {
	for settled := false; len(t.dirs) >= t.room; settled = true {
		if err := t.shutIdle(); err != nil {
			return err
		}
		if len(t.dirs) < t.room {
			break
		}
		if settled && len(t.dirs) < maxDirs {
			break // one entry needs them all
		}
		if settled {
			return fmt.Errorf("all of %d directories are in use: %w", len(t.dirs), errdefs.ErrInternal)
		}
		if err := t.settle(); err != nil {
			return err
		}
	}
	return nil
}

// shutIdle closes directories that nobody uses, as long as there are too many.
func (t *tree) shutIdle() error {
	for e := t.recent.Back(); e != nil && len(t.dirs) >= t.room; {
		d, ok := e.Value.(*dir)
		e = e.Prev()
		if ok && d.pins.Load() == 0 {
			if err := t.shut(d); err != nil {
				return err
			}
		}
	}
	return nil
}

// shut sets the directory's times and closes it.
func (t *tree) shut(d *dir) error {
	err := d.setTimes()
	t.forget(d)
	return errors.Join(err, d.close())
}

// close closes the directory. Its number, which a directory of another layer may have next, is of no use afterwards.
func (d *dir) close() error {
	fd := d.fd
	d.fd = -1
	return unix.Close(fd)
}

func (d *dir) setTimes() error {
	if !d.timed {
		return nil
	}
	if err := unix.UtimesNanoAt(d.fd, ".", d.times[:], unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set times of directory %q: %w", d.path, err)
	}
	return nil
}

func (t *tree) forget(d *dir) {
	if t.last.dir == d {
		t.last.dir = nil
	}
	delete(t.dirs, d.path)
	t.recent.Remove(d.place)
}

// drop closes the directories at and below a path that is about to be deleted. Writers are idle.
func (t *tree) drop(path string) {
	t.last.dir = nil // may have come through a symlink that goes away
	for p, d := range t.dirs {
		if tarcodec.Within(p, path) {
			t.forget(d)
			_ = d.close() // it goes away
		}
	}
}

// finish sets the times of all directories that are still open.
func (t *tree) finish() error {
	for len(t.dirs) > 0 {
		d, ok := t.recent.Back().Value.(*dir)
		if !ok {
			return fmt.Errorf("directory list is damaged: %w", errdefs.ErrInternal)
		}
		if err := t.shut(d); err != nil {
			return err
		}
	}
	return t.root.setTimes()
}

// close closes what is open, whatever happened before.
func (t *tree) close() error {
	t.drop(".")
	openat.CloseQuietly(t.root.fd, -1)
	return t.view.close()
}
