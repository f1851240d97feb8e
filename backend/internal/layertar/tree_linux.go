package layertar

import (
	"container/list"
	"errors"
	"fmt"
	"hash/maphash"
	"strings"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	// maxDirs is how many directories an Apply keeps open. More than maxJobs, so that one is always idle.
	maxDirs = 128
	// maxLinks is how many symlinks a path may lead through; the kernel's own limit.
	maxLinks = 40
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
	file  uint64 // number of its record in the log, plus one; 0 is none
	dir   bool
	fresh bool // dir: see there
	timed bool // dir: its header set the times
	gone  bool // a whiteout of the overlay dialects
}

// tree is the layer as the parser sees it: directories by path, and the paths made so far. It is
// used by the parser only; pins are what it shares with the writers.
type tree struct {
	root   *dir
	dirs   map[string]*dir
	recent *list.List // of *dir, most recent first; the root is not in it
	seed   maphash.Seed
	made   map[uint64]made // by hash of the path: a path costs 40 bytes whatever its length
	settle func() error    // waits for all writers
	imply  func(parent *dir, base string) (*dir, error)
	opened func(path string) // called for each directory but the root
	last   struct {
		path string // as asked for
		dir  *dir
	}
}

func newTree(path string, settle func() error) (*tree, error) {
	fd, err := openRoot(path)
	if err != nil {
		return nil, err
	}
	t := &tree{
		root:   &dir{path: ".", fd: fd},
		dirs:   map[string]*dir{},
		recent: list.New(),
		seed:   maphash.MakeSeed(),
		made:   map[uint64]made{},
		settle: settle,
	}
	if t.root.acl, err = hasDefaultACL(fd); err != nil {
		return nil, errors.Join(fmt.Errorf("layer directory %s: %w", path, err), unix.Close(fd))
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
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		d, err = t.walk(path, true)
	}
	if err != nil {
		return nil, fmt.Errorf("open directory %q: %w", path, err)
	}
	t.last.path, t.last.dir = path, d
	return d, nil
}

// find is get without making anything.
func (t *tree) find(path string) (*dir, error) {
	d, err := t.lookup(path)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		d, err = t.walk(path, false)
	}
	if err != nil {
		return nil, fmt.Errorf("open directory %q: %w", path, err)
	}
	return d, nil
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
	fd, err := openDirAt(t.root.fd, path)
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

// inspect fills d from what is known and from the disk.
func (t *tree) inspect(d *dir) error {
	m := t.made[t.key(d.path)]
	d.fresh, d.timed = m.fresh, m.timed
	if d.timed { // set before, when it was closed; to be set again
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

// makeRoom closes the directory that was not used for longest, if there are too many.
func (t *tree) makeRoom() error {
	if len(t.dirs) < maxDirs {
		return nil
	}
	for settled := false; ; settled = true {
		for e := t.recent.Back(); e != nil; e = e.Prev() {
			if d, ok := e.Value.(*dir); ok && d.pins.Load() == 0 {
				return t.shut(d)
			}
		}
		if settled {
			return fmt.Errorf("all %d directories are in use: %w", maxDirs, errdefs.ErrInternal)
		}
		if err := t.settle(); err != nil {
			return err
		}
	}
}

// shut sets the directory's times and closes it.
func (t *tree) shut(d *dir) error {
	err := d.setTimes()
	t.forget(d)
	return errors.Join(err, unix.Close(d.fd))
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
		if within(p, path) {
			t.forget(d)
			closeQuietly(d.fd, -1)
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
func (t *tree) close() {
	t.drop(".")
	closeQuietly(t.root.fd, -1)
}

// walk returns the directory at a path in which something is missing or a symlink. It keeps at
// most one directory pinned and remembers names only: between two steps nobody but us changes the
// tree, and if someone does, the open fails.
func (t *tree) walk(path string, imply bool) (*dir, error) {
	todo := strings.Split(path, "/")
	d, err := t.lookup(".")
	if err != nil {
		return nil, err
	}
	for links := 0; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		next, target, err := t.step(d, part, imply)
		d.unpin()
		if err != nil {
			return nil, err
		}
		d = next
		if target == "" {
			continue
		}
		if links++; links > maxLinks {
			d.unpin()
			return nil, unix.ELOOP
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return d, nil
}

// step goes from d to what part names in it. If that is a symlink it returns where to go on from,
// and the path to take.
func (t *tree) step(d *dir, part string, imply bool) (next *dir, target string, err error) {
	switch part {
	case "", ".":
		d.pins.Add(1)
		return d, "", nil
	case "..":
		up, _ := splitName(d.path) // the root is its own parent
		next, err = t.lookup(up)
		return next, "", err
	}
	path := joinName(d.path, part)
	next, err = t.lookup(path)
	if err == nil {
		return next, "", nil
	}
	var st unix.Stat_t
	serr := t.stat(d, part, &st)
	if serr == nil && t.made[t.key(path)].gone {
		serr = unix.ENOENT
	}
	switch {
	case errors.Is(serr, unix.ENOENT) && imply:
		next, err = t.imply(d, part)
		return next, "", err
	case serr != nil:
		return nil, "", serr
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return nil, "", err
	case st.Mode&unix.S_IFMT != unix.S_IFLNK:
		return nil, "", fmt.Errorf("%q: %w", path, unix.ENOTDIR)
	}
	if target, err = readLink(d.fd, part); err != nil {
		return nil, "", fmt.Errorf("read link %q: %w", path, err)
	}
	if strings.HasPrefix(target, "/") {
		d = t.root
	}
	d.pins.Add(1)
	return d, target, nil
}

// stat looks at a name in d, after waiting for writers that may be making it.
func (t *tree) stat(d *dir, base string, st *unix.Stat_t) error {
	if _, ok := t.made[t.key(joinName(d.path, base))]; ok {
		if err := t.settle(); err != nil {
			return err
		}
	}
	return unix.Fstatat(d.fd, base, st, unix.AT_SYMLINK_NOFOLLOW)
}

func readLink(dir int, name string) (string, error) {
	b := make([]byte, 4096) // PATH_MAX: no target is longer
	n, err := unix.Readlinkat(dir, name, b)
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}
