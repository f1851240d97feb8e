package dirsink

import (
	"fmt"

	"golang.org/x/sys/unix"

	"strata/backend/internal/dirfd"
	"strata/backend/internal/layertar/openat"
	"strata/backend/internal/layertar/tarcodec"
)

// prune deletes everything in a directory that this tar has not put there.
func (a *sink) prune(d *dir) error {
	if err := a.writers.wait(); err != nil {
		return err
	}
	a.tree.last.dir = nil
	if _, err := a.clear(dirfd.Dir{FD: d.fd, Path: d.path}, d.path, false); err != nil {
		return fmt.Errorf("clear %q: %w", d.path, err)
	}
	return nil
}

// removeTree deletes a directory called base in d, or, unless all is set, what in it is not ours, and reports whether
// it is gone. It never crosses a mount point.
func (a *sink) removeTree(d *dir, base string, all bool) (gone bool, err error) {
	path := tarcodec.JoinName(d.path, base)
	root, err := dirfd.Dir{FD: d.fd, Path: d.path}.Open(base)
	if err != nil {
		return false, err
	}
	defer root.Close()
	if err := a.contest(root.FD, path); err != nil {
		return false, err
	}
	if gone, err = a.clear(root, path, all); err != nil {
		return false, err
	}
	if !gone {
		return false, a.keep(root.FD, path)
	}
	return true, a.removeEmpty(d.fd, base, path)
}

// removeEmpty deletes a directory that holds nothing.
func (a *sink) removeEmpty(at int, base, path string) error {
	a.tree.drop(path)
	delete(a.tree.made, a.tree.key(path))
	return unix.Unlinkat(at, base, unix.AT_REMOVEDIR)
}

// clearing is a walk that deletes what a directory holds, or, unless all is set, what in it is not ours.
type clearing struct {
	*sink
	walk  *dirfd.Walk
	root  string // the path of the directory where it began
	all   bool
	stack []cleared // the directories from there to where the walk is
}

// cleared is a directory of such a walk.
type cleared struct {
	times          [2]unix.Timespec
	stays, changed bool // something in it stays, or is gone
}

// clear deletes what a directory holds, or, unless all is set, what in it is not ours, and reports whether the directory is
// to go too. If it stays its times do not change. path is canonical; that of root, which is for messages, can be cut.
func (a *sink) clear(root dirfd.Dir, path string, all bool) (empty bool, err error) {
	c := &clearing{sink: a, walk: dirfd.NewWalk(root, dirfd.ByName), root: path, all: all}
	defer c.walk.Close()
	if err := c.push(); err != nil {
		return false, err
	}
	for {
		e, ok, err := c.walk.Next()
		switch {
		case err != nil:
			return false, err
		case ok:
			err = c.entry(e)
		case c.walk.Depth() == 0:
			return c.finish(c.path())
		default:
			err = c.leave()
		}
		if err != nil {
			return false, err
		}
	}
}

// path is the canonical path of the directory where the walk is.
func (c *clearing) path() string {
	if c.walk.Depth() == 0 {
		return c.root
	}
	return tarcodec.JoinName(c.root, c.walk.Path())
}

// push takes the directory where the walk is onto the stack.
func (c *clearing) push() error {
	if err := c.tree.alive(); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(c.walk.Dir().FD, &st); err != nil {
		return err
	}
	c.stack = append(c.stack, cleared{times: [2]unix.Timespec{st.Atim, st.Mtim}})
	return nil
}

func (c *clearing) entry(e dirfd.Entry) error {
	path := tarcodec.JoinName(c.path(), e.Name)
	top := &c.stack[len(c.stack)-1]
	if m, ours := c.tree.made[c.tree.key(path)]; ours && !c.all && m.stays() {
		top.stays = true
		return nil
	}
	is, err := isDirectory(c.walk.Dir(), e)
	if err != nil {
		return err
	}
	if !is {
		top.changed = true
		return c.removeFile(c.walk.Dir().FD, e.Name, path)
	}
	if err := c.walk.Enter(e.Name); err != nil {
		return err
	}
	if err := c.contest(c.walk.Dir().FD, path); err != nil {
		return err
	}
	return c.push()
}

// finish reports whether the directory where the walk is has become empty and is to go too.
func (c *clearing) finish(path string) (gone bool, err error) {
	top := c.stack[len(c.stack)-1]
	m := c.tree.made[c.tree.key(path)]
	gone = !top.stays && (c.all || !m.dir || m.implied) && path != "."
	if gone || !top.changed {
		return gone, nil
	}
	return false, unix.UtimesNanoAt(c.walk.Dir().FD, ".", top.times[:], 0)
}

// leave goes back to the directory above.
func (c *clearing) leave() error {
	path := c.path()
	gone, err := c.finish(path)
	if err == nil && !gone {
		err = c.keep(c.walk.Dir().FD, path)
	}
	if err != nil {
		return err
	}
	if err := c.walk.Leave(); err != nil {
		return err
	}
	c.stack = c.stack[:len(c.stack)-1]
	top := &c.stack[len(c.stack)-1]
	if !gone {
		top.stays = true
		return nil
	}
	top.changed = true
	_, base := tarcodec.SplitName(path)
	return c.removeEmpty(c.walk.Dir().FD, base, path)
}

// isDirectory tells what kind of file a name is where the listing does not.
func isDirectory(d dirfd.Dir, e dirfd.Entry) (bool, error) {
	if e.Type != unix.DT_UNKNOWN {
		return e.Type == unix.DT_DIR, nil
	}
	var st unix.Stat_t
	err := unix.Fstatat(d.FD, e.Name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st.Mode&unix.S_IFMT == unix.S_IFDIR, err
}

// keep notes that a directory holds nothing any more but what this tar put there. If that does not describe the directory,
// what did is gone.
func (a *sink) keep(fd int, path string) error {
	key := a.tree.key(path)
	m := a.tree.made[key]
	if !m.dir || m.implied {
		if err := a.reset(fd); err != nil {
			return fmt.Errorf("directory %q: %w", path, err)
		}
		m.implied, m.lower, m.timed = true, false, false
	}
	m.dir, m.fresh, m.covers = true, true, true
	a.tree.made[key] = m
	if d, ok := a.tree.dirs[path]; ok {
		d.fresh, d.timed, d.acl = true, m.timed, d.acl && !m.implied
	}
	return nil
}

// reset makes a directory look like one that was just implied, with nothing below.
func (a *sink) reset(fd int) error {
	at := a.impliedAttrs()
	at.times = [2]unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
	if err := a.strip(fd, &at); err != nil {
		return err
	}
	n := node{File: openat.File{FD: fd, Dir: fd, Name: "."}}
	if err := n.set(&at); err != nil {
		return err
	}
	return n.setTimes(&at)
}
