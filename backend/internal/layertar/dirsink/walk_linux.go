package dirsink

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"strata/backend"
	"strata/backend/internal/layertar/openat"
	"strata/backend/internal/layertar/tarcodec"
)

// maxLinks is how many symlinks a path may lead through; the kernel's own limit.
const maxLinks = 40

// spot is a directory that a path leads to. dir, pinned, is nil where only the layers below have it.
type spot struct {
	path  string // canonical
	dir   *dir
	cover coverage
}

// coverage tells whether something of the layers below shows in a directory.
type coverage int

const (
	unasked coverage = iota
	uncovered
	covered
)

func (s spot) unpin() {
	if s.dir != nil {
		s.dir.unpin()
	}
}

// walk returns the directory at a path in which something is missing or a symlink. It keeps at
// most one directory pinned and remembers names only: between two steps nobody but us changes the
// tree, and if someone does, the open fails.
func (t *tree) walk(path string, imply bool) (spot, error) {
	at, err := t.stand(".")
	if err != nil {
		return at, err
	}
	return t.follow(at, strings.Split(path, "/"), imply)
}

// approach is walk for a clean path, of which often the last name alone is missing.
func (t *tree) approach(path string, imply bool) (spot, error) {
	parent, base := tarcodec.SplitName(path)
	d, err := t.lookup(parent)
	if err != nil {
		return t.walk(path, imply)
	}
	return t.follow(spot{path: parent, dir: d}, []string{base}, imply)
}

// follow goes on from a directory, which it unpins.
func (t *tree) follow(at spot, todo []string, imply bool) (spot, error) {
	for links := 0; len(todo) > 0; {
		if err := t.alive(); err != nil {
			at.unpin()
			return spot{}, err
		}
		part := todo[0]
		todo = todo[1:]
		next, target, err := t.step(&at, part, imply)
		at.unpin()
		if err != nil {
			return spot{}, err
		}
		at = next
		if target == "" {
			continue
		}
		if links++; links > maxLinks {
			at.unpin()
			return spot{}, unix.ELOOP
		}
		way, err := t.budget.detour(target)
		if err != nil {
			at.unpin()
			return spot{}, err
		}
		todo = append(way, todo...)
	}
	return at, nil
}

// What a tar may have us do that its entries do not say, all together and for each entry besides: an entry of few bytes may lead through
// 40 symlinks of 4 KiB, and name thousands of directories that are not there.
const (
	maxUnsaid      = 1 << 16
	maxUnsaidEntry = 64
)

// budget counts that.
type budget struct {
	entries int
	steps   int // through the targets of symlinks
	implied int // directories
}

func (b *budget) spend(what string, n int) error {
	if most := maxUnsaid + maxUnsaidEntry*b.entries; n > most {
		return errTooMany(what, most)
	}
	return nil
}

// detour returns the way that the target of a symlink is.
func (b *budget) detour(target string) ([]string, error) {
	way := strings.Split(target, "/")
	b.steps += len(way)
	return way, b.spend("steps through the targets of symlinks", b.steps)
}

// imply counts a directory.
func (b *budget) imply() error {
	b.implied++
	return b.spend("directories that are in names only", b.implied)
}

// stand returns the directory at a canonical path, which is known to be one.
func (t *tree) stand(path string) (spot, error) {
	d, err := t.lookup(path)
	if errors.Is(err, unix.ENOENT) {
		return spot{path: path}, nil
	}
	return spot{path: path, dir: d}, err
}

// step goes from at to what part names in it. If that is a symlink it returns where to go on from,
// and the path to take.
func (t *tree) step(at *spot, part string, imply bool) (next spot, target string, err error) {
	switch part {
	case "", ".":
		if at.dir != nil {
			at.dir.pins.Add(1)
		}
		return *at, "", nil
	case "..":
		next, err = t.leave(at)
		return next, "", err
	}
	path := tarcodec.JoinName(at.path, part)
	if at.dir == nil && at.cover == uncovered && t.view.dirs[t.key(path)] {
		return spot{path: path, cover: uncovered}, "", nil
	}
	f, err := t.look(at, part, path)
	switch {
	case err != nil:
		return spot{}, "", err
	case f.is == isLink:
		return t.base(at, f.target), f.target, nil
	case f.is == isOther && (!imply || !f.waits):
		return spot{}, "", fmt.Errorf("%q: %w", path, unix.ENOTDIR)
	case f.own || imply:
		next, err = t.into(at, part, path, &f)
		return next, "", err
	case f.is == isDir:
		t.view.dirs = remember(t.view.dirs, t.key(path))
		return spot{path: path, cover: at.cover}, "", nil
	}
	return spot{}, "", unix.ENOENT
}

// base returns the directory, pinned, that the target of a symlink in at begins at.
func (t *tree) base(at *spot, target string) spot {
	from := *at
	if strings.HasPrefix(target, "/") {
		from = spot{path: ".", dir: t.root, cover: at.upwards()}
	}
	if from.dir != nil {
		from.dir.pins.Add(1)
	}
	return from
}

// into goes into a directory of the layer's own, or makes it.
func (t *tree) into(at *spot, part, path string, f *sight) (next spot, err error) {
	var d *dir
	if f.own && !f.waits {
		d, err = t.enter(at.dir, part, path)
	} else {
		d, err = t.imply(at.dir, part, path, f.below)
	}
	if err != nil {
		return spot{}, err
	}
	cover, err := t.inherit(at, d)
	if err != nil {
		d.unpin()
		return spot{}, err
	}
	return spot{path: path, dir: d, cover: cover}, nil
}

// leave goes from at to its parent. The root is its own.
func (t *tree) leave(at *spot) (next spot, err error) {
	up, _ := tarcodec.SplitName(at.path)
	if _, open := t.dirs[up]; open || up == "." || at.dir == nil {
		next, err = t.stand(up)
		next.cover = at.upwards()
		return next, err
	}
	fd, err := t.openDir(func() (int, error) { return openat.OpenAt(at.dir.fd, "..", openat.DirFlags) }) // not from the root, which may be far
	if err != nil {
		return spot{}, err
	}
	d, err := t.add(up, fd)
	return spot{path: up, dir: d, cover: at.upwards()}, err
}

// upwards tells what is known of the coverage of the directories that s is in: if one of them covered, s were covered.
func (s *spot) upwards() coverage {
	if s.cover == uncovered {
		return uncovered
	}
	return unasked
}

// inherit tells what is known of the coverage of a directory of the layer's own from that of the one that it is in.
func (t *tree) inherit(at *spot, d *dir) (coverage, error) {
	m, ours := t.made[t.key(d.path)]
	switch {
	case at.cover == covered || m.covers:
		return covered, nil
	case at.cover == unasked || ours:
		return at.cover, nil
	}
	opaque, err := hasMark(d.fd, t.view.opaque)
	if opaque && err == nil {
		return covered, nil
	}
	return uncovered, err
}

// enter opens the directory called name in d, pinned.
func (t *tree) enter(d *dir, name, path string) (*dir, error) {
	if _, ok := t.dirs[path]; ok {
		return t.lookup(path)
	}
	return t.open(d, name, path)
}

// kind is what stands under a name.
type kind int

const (
	isNothing kind = iota
	isDir
	isLink
	isOther
)

// sight is what can be seen under a name.
type sight struct {
	is     kind
	target string        // of a symlink
	own    bool          // the layer itself has it
	waits  bool          // it stands for a hard link: what is put into it replaces it
	below  *backend.Node // where it does not: what the layers below have
}

// look tells what stands under a name in a directory, at this path: in the layer itself, or where that has nothing, below.
func (t *tree) look(at *spot, base, path string) (f sight, err error) {
	if at.dir != nil {
		if _, ok := t.dirs[path]; ok {
			return sight{is: isDir, own: true}, nil
		}
		var st unix.Stat_t
		err := t.stat(at.dir, base, path, &st)
		switch {
		case err == nil && t.view.whiteout(&st):
			return sight{}, nil
		case err == nil:
			f = sight{is: kindOf(st.Mode), own: true, waits: t.made[t.key(path)].link}
			if f.is == isLink {
				if f.target, err = openat.ReadLink(at.dir.fd, base); err != nil {
					return f, fmt.Errorf("read link %q: %w", path, err)
				}
			}
			return f, nil
		case !errors.Is(err, unix.ENOENT):
			return f, err
		}
	}
	n, err := t.below(at, base)
	if n == nil || err != nil {
		return sight{}, err
	}
	return sight{is: kindOf(n.Mode), target: n.Target, below: n}, nil
}

func kindOf(mode uint32) kind {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return isDir
	case unix.S_IFLNK:
		return isLink
	}
	return isOther
}

// stat looks at a name in d, after waiting for writers that may be making it.
func (t *tree) stat(d *dir, base, path string, st *unix.Stat_t) error {
	if _, ok := t.made[t.key(path)]; ok {
		if err := t.settle(); err != nil {
			return err
		}
	}
	return unix.Fstatat(d.fd, base, st, unix.AT_SYMLINK_NOFOLLOW)
}
