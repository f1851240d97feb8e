package dirfd

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// heldLevels is how many directories a Trail keeps open besides its root. Two trails side by side fit into 256 descriptors
// four times.
const heldLevels = 32

// ErrMoved says that a directory above the one where a walk was is no longer where it was.
var ErrMoved = fmt.Errorf("a directory was moved or removed while it was walked: %w", errdefs.ErrAborted)

// Trail is the way from a root directory down to the one where a walk is. The root and the deepest directories are
// open. Those between are closed, and found again by "..", or, should that be another directory meanwhile, by their
// names from the root: device and inode number tell. So neither descriptors nor PATH_MAX bound the depth, and whatever
// others move, a trail never leads out of its root.
//
// It is for one goroutine.
type Trail struct {
	root   Dir
	way    []byte  // the names from the root, joined by slashes
	levels []level // below the root
	open   int     // index of the first level that is open; those after it are, too
	held   int
}

// level is a directory of a trail.
type level struct {
	fd    int    // -1 if it is closed
	end   int    // how much of the way leads to it
	id    Inode  // if it is closed
	place *Place // once asked for
}

// Inode names an inode of a file system.
type Inode struct{ Dev, Ino uint64 }

// InodeOf returns the inode that st describes.
func InodeOf(st *unix.Stat_t) Inode { return Inode{st.Dev, st.Ino} }

// NewTrail begins at a directory, which stays the caller's to close.
func NewTrail(root Dir) *Trail { return &Trail{root: root, held: heldLevels} }

// Hold changes how many directories are kept open besides the root, at least one: for walks with many trails side by side.
func (t *Trail) Hold(levels int) { t.held = max(levels, 1) }

// Depth returns how many directories are between the root and where the trail ends; the root is at 0.
func (t *Trail) Depth() int { return len(t.levels) }

// Dir returns where the trail ends. It is good until the next Enter, Leave or Close.
func (t *Trail) Dir() Dir {
	if len(t.levels) == 0 {
		return t.root
	}
	return Dir{FD: t.levels[len(t.levels)-1].fd, trail: t, end: len(t.way)}
}

// Path returns the path of Dir below the root, "" for the root itself, however long it is.
func (t *Trail) Path() string { return string(t.way) }

// Name returns what Dir is called in the directory above, "" for the root.
func (t *Trail) Name() string {
	begin := 0
	if n := len(t.levels); n > 1 {
		begin = t.levels[n-2].end + 1
	}
	return string(t.way[begin:])
}

// Enter goes into a directory of Dir. The errors are those of Dir.Open, and leave the trail as it is.
func (t *Trail) Enter(name string) error {
	fd, err := t.openBelow(name)
	if err != nil {
		return err
	}
	for len(t.levels)-t.open >= t.held {
		if err := t.closeFirst(); err != nil {
			_ = unix.Close(fd) // only read
			return err
		}
	}
	if len(t.way) > 0 {
		t.way = append(t.way, '/')
	}
	t.way = append(t.way, name...)
	t.levels = append(t.levels, level{fd: fd, end: len(t.way)})
	return nil
}

// openBelow opens a directory of Dir. If there are no descriptors left the trail gives up some of its own.
func (t *Trail) openBelow(name string) (int, error) {
	for {
		fd, err := t.Dir().openFD(name, unix.O_DIRECTORY)
		if !errors.Is(err, unix.EMFILE) && !errors.Is(err, unix.ENFILE) || len(t.levels)-t.open < 2 {
			return fd, err
		}
		if err := t.closeFirst(); err != nil {
			return -1, err
		}
	}
}

// closeFirst closes the open directory that is nearest to the root.
func (t *Trail) closeFirst() error {
	l := &t.levels[t.open]
	id, err := identify(l.fd)
	if err != nil {
		return &os.PathError{Op: "stat", Path: Dir{trail: t, end: l.end}.String(), Err: err}
	}
	_ = unix.Close(l.fd) // only read
	l.fd, l.id = -1, id
	t.open++
	return nil
}

func identify(fd int) (Inode, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return InodeOf(&st), err
}

// Leave goes back to the directory above. If that is not found again the trail ends at the deepest directory on the way to
// it that is, and the error is ErrMoved: what is left of those between is then out of reach.
func (t *Trail) Leave() error {
	last := t.levels[len(t.levels)-1]
	defer func() { _ = unix.Close(last.fd) }() // only read
	t.cut(len(t.levels) - 1)
	if len(t.levels) == 0 || t.open < len(t.levels) {
		return nil
	}
	fd, err := reopen(Dir{FD: last.fd}, "..", t.levels[len(t.levels)-1].id)
	if errors.Is(err, ErrMoved) {
		return t.retrace()
	}
	if err != nil {
		err = fmt.Errorf("go back to %s: %w", t.Dir(), err)
		t.cut(0)
		return err
	}
	t.stopAt(len(t.levels), Dir{FD: fd})
	return nil
}

// cut leaves n levels. It closes none.
func (t *Trail) cut(n int) {
	t.levels = t.levels[:n]
	t.way = t.way[:0]
	if n > 0 {
		t.way = t.way[:t.levels[n-1].end]
	}
	t.open = min(t.open, n)
}

// reopen opens a directory, which is ErrMoved if it is not the one that is meant.
func reopen(d Dir, name string, want Inode) (int, error) {
	fd, err := d.openFD(name, unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || IsMountPoint(err) {
		return -1, ErrMoved
	}
	if err != nil {
		return -1, err
	}
	id, err := identify(fd)
	if err == nil && id != want {
		err = ErrMoved
	}
	if err != nil {
		_ = unix.Close(fd) // only read
		return -1, err
	}
	return fd, nil
}

// retrace goes the way again from the root, all of whose levels are closed, as far as it leads to the same directories.
func (t *Trail) retrace() error {
	at, begin := t.root, 0
	for i, l := range t.levels {
		fd, err := reopen(at, string(t.way[begin:l.end]), l.id)
		if err != nil {
			err = fmt.Errorf("go back to %s: %w", Dir{trail: t, end: l.end}, err)
			t.stopAt(i, at)
			return err
		}
		if i > 0 {
			at.Close()
		}
		at, begin = Dir{FD: fd}, l.end+1
	}
	t.stopAt(len(t.levels), at)
	return nil
}

// stopAt leaves n levels, of which at is the last one.
func (t *Trail) stopAt(n int, at Dir) {
	t.cut(n)
	if n > 0 {
		t.levels[n-1].fd = at.FD
		t.open = n - 1
	}
}

// Close closes all but the root, to which the trail goes back.
func (t *Trail) Close() {
	for _, l := range t.levels[t.open:] {
		_ = unix.Close(l.fd) // only read
	}
	t.cut(0)
}

// Place is a directory of a trail, to be remembered without a path of its own. nil is the root.
type Place struct {
	Up   *Place
	Name string
}

// Place returns where the trail ends.
func (t *Trail) Place() *Place {
	known := len(t.levels)
	for known > 0 && t.levels[known-1].place == nil {
		known--
	}
	var p *Place
	begin := 0
	if known > 0 {
		p, begin = t.levels[known-1].place, t.levels[known-1].end+1
	}
	for i := known; i < len(t.levels); i++ {
		l := &t.levels[i]
		p = &Place{Up: p, Name: string(t.way[begin:l.end])}
		l.place, begin = p, l.end+1
	}
	return p
}

// Path returns the path below the root, "" for the root itself.
func (p *Place) Path() string {
	var names []string
	length := 0
	for ; p != nil; p = p.Up {
		names = append(names, p.Name)
		length += len(p.Name) + 1
	}
	path := make([]byte, 0, length)
	for _, name := range slices.Backward(names) {
		if len(path) > 0 {
			path = append(path, '/')
		}
		path = append(path, name...)
	}
	return string(path)
}

// OpenPlace opens a directory below d, with the errors of Open.
func (d Dir) OpenPlace(p *Place) (Dir, error) {
	if p == nil {
		return d.Open(".")
	}
	return d.Open(p.Path())
}
