package dirsink

import (
	"cmp"
	"errors"
	"hash/maphash"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"strata/backend"
	"strata/backend/internal/layertar/openat"
	"strata/backend/internal/layertar/tarcodec"
)

// view is what a sink sees of the layers below. In a dialect without whiteouts, where the directory holds the whole
// tree, there is nothing to see.
type view struct {
	opaque string // xattr that makes a directory opaque, "" if the dialect has none
	open   func() (backend.Below, error)
	tree   backend.Below // once it was asked for
	// dirs are directories that only the layers below have, by the hash of the path: a path through them need not be
	// looked up name by name again. They do not change.
	dirs map[uint64]bool
	// clear are directories, by the hash of the path, of which none that was there before has an opaque mark on the way.
	clear map[uint64]bool
}

// maxRemembered bounds view.dirs and view.clear.
const maxRemembered = 1 << 16

// remember adds to what may be forgotten again.
func remember(m map[uint64]bool, key uint64) map[uint64]bool {
	if m == nil || len(m) == maxRemembered {
		m = map[uint64]bool{}
	}
	m[key] = true
	return m
}

// unknown stands for what the layers below may have, as long as they are not known.
var unknown = &backend.Node{Mode: unix.S_IFDIR}

// suffixImplied, after an opaque attribute's prefix, marks a directory that was implied when it was not known what lies
// below. overlayfs shows no attribute with that prefix.
const suffixImplied = "strata.implied"

// implied is the attribute that marks a directory that waits for Settle.
func (v *view) implied() string { return v.opaque[:len(v.opaque)-len("opaque")] + suffixImplied }

func (v *view) known() bool { return v.opaque == "" || v.open != nil }

// whiteout tells that a file stands for a deletion.
func (v *view) whiteout(st *unix.Stat_t) bool {
	return v.opaque != "" && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

func (v *view) below() (backend.Below, error) {
	var err error
	if v.tree == nil {
		v.tree, err = v.open()
	}
	return v.tree, err
}

func (v *view) close() error {
	if v.tree == nil {
		return nil
	}
	return v.tree.Close()
}

// below returns what shows of the layers below under a name in a directory: nil for nothing, unknown if
// that is not known.
func (t *tree) below(at *spot, base string) (*backend.Node, error) {
	if t.view.opaque == "" {
		return nil, nil //nolint:nilnil // nil is nothing
	}
	covered, err := t.covers(at)
	if covered || err != nil {
		return nil, err
	}
	if t.view.open == nil {
		return unknown, nil
	}
	b, err := t.view.below()
	if err != nil {
		return nil, err
	}
	return b.Lookup(tarcodec.JoinName(at.path, base))
}

// covers tells whether a directory hides all that the layers below have there.
func (t *tree) covers(at *spot) (bool, error) {
	if at.cover == unasked {
		is, err := t.covered(at.path)
		if err != nil {
			return false, err
		}
		at.cover = uncovered
		if is {
			at.cover = covered
		}
	}
	return at.cover == covered, nil
}

// covered tells that nothing of the layers below shows in the directory at a canonical path.
func (t *tree) covered(path string) (bool, error) {
	foreign := "" // the last directory on the way that was there before
	for at, key := range t.wayTo(path) {
		m, ours := t.made[key]
		if m.covers {
			return true, nil
		}
		if !ours && (at != "." || !t.view.known()) { // a known root's mark means nothing
			foreign = at
		}
	}
	if foreign == "" || t.view.opaque == "" {
		return false, nil
	}
	return t.foundOpaque(foreign)
}

// wayTo yields the directories on the way to a canonical path, from the root to that itself, with their keys.
func (t *tree) wayTo(path string) iter.Seq2[string, uint64] {
	return func(yield func(string, uint64) bool) {
		if !yield(".", t.key(".")) || path == "." {
			return
		}
		var h maphash.Hash
		h.SetSeed(t.seed)
		for start := 0; start < len(path); {
			end := len(path)
			if n := strings.IndexByte(path[start+1:], '/'); n >= 0 {
				end = start + 1 + n
			}
			_, _ = h.WriteString(path[start:end]) // it never fails
			if !yield(path[:end], h.Sum64()) {
				return
			}
			start = end
		}
	}
}

// foundOpaque looks for the opaque mark of a directory on the way to a canonical path that may have been there before.
func (t *tree) foundOpaque(path string) (opaque bool, err error) {
	v := &t.view
	near := "" // the last directory on the way of which is known that there is none
	for at, key := range t.wayTo(path) {
		if v.clear[key] {
			near = at
		}
	}
	if near == path {
		return false, nil
	}
	d, err := t.lookup(cmp.Or(near, "."))
	if missing(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer d.unpin()
	if near == "" && !v.known() {
		if opaque, err = hasMark(d.fd, v.opaque); opaque || err != nil {
			return opaque, err
		}
	}
	if path != "." {
		opaque, err = t.opaqueWithin(d, strings.TrimPrefix(path[len(near):], "/"))
	}
	if !opaque && err == nil {
		v.clear = remember(v.clear, t.key(path))
	}
	return opaque, err
}

// opaqueWithin looks for the opaque mark of a directory on the way from d to a path in it.
func (t *tree) opaqueWithin(d *dir, path string) (opaque bool, err error) {
	at := d.fd
	defer func() { openat.CloseQuietly(at, d.fd) }()
	for part := range strings.SplitSeq(path, "/") {
		next, err := openat.OpenAt(at, part, openat.DirFlags)
		if missing(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		openat.CloseQuietly(at, d.fd)
		at = next
		if opaque, err = hasMark(at, t.view.opaque); opaque || err != nil {
			return opaque, err
		}
	}
	return false, nil
}

// hasMark tells whether a directory has an attribute of ours or of overlayfs that says yes.
func hasMark(fd int, name string) (bool, error) {
	var b [8]byte
	n, err := unix.Fgetxattr(fd, name, b[:])
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ERANGE) {
		return false, nil
	}
	return err == nil && string(b[:n]) == "y", err
}

// nodeAttrs are the properties of a directory that is to look as it does below.
func nodeAttrs(n *backend.Node) attrs {
	a := attrs{mode: n.Mode & tarcodec.ModeBits, uid: n.UID, gid: n.GID}
	for i, t := range []time.Time{n.Atime, n.Mtime} {
		a.times[i] = unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
	}
	for _, name := range slices.Sorted(maps.Keys(n.Xattrs)) {
		a.xattrs = append(a.xattrs, backend.Xattr{Name: name, Value: n.Xattrs[name]})
	}
	return a
}
