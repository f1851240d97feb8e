package openat

import (
	"errors"
	"strings"

	"strata/backend/internal/dirfd"
	"strata/backend/internal/layertar/tarcodec"
)

// DirReader opens files below a root. It goes from the directory where it was last to the next one, so that in path order no
// directory is far, however deep. It is for one goroutine.
type DirReader struct {
	trail *dirfd.Trail
	at    string // where the trail is, "" for the root
}

// dirReaderHeld is how many directories it keeps open: enough for a walk of a tree 8 deep.
const dirReaderHeld = 8

// NewDirReader returns a reader below root, which stays the caller's. The caller ends with Close.
func NewDirReader(root int) *DirReader {
	r := &DirReader{trail: dirfd.NewTrail(dirfd.Dir{FD: root, Path: "."})}
	r.trail.Hold(dirReaderHeld)
	return r
}

// Dir returns the directory at a clean relative path. It stays open until the next call. A symlink anywhere in the path is ENOTDIR, a
// mount point errdefs.ErrFailedPrecondition.
func (r *DirReader) Dir(path string) (int, error) {
	if path == "." {
		path = ""
	}
	for shared := sharedDir(r.at, path); len(r.at) > shared; {
		if err := r.leave(); err != nil {
			return -1, err
		}
	}
	for len(r.at) < len(path) {
		begin := len(r.at)
		if begin > 0 {
			begin++
		}
		end := len(path)
		if i := strings.IndexByte(path[begin:], '/'); i >= 0 {
			end = begin + i
		}
		if err := r.trail.Enter(path[begin:end]); err != nil {
			return -1, err
		}
		r.at = path[:end]
	}
	return r.trail.Dir().FD, nil
}

// leave goes back to the directory above, or further where that was moved away meanwhile.
func (r *DirReader) leave() error {
	before := r.trail.Depth()
	err := r.trail.Leave()
	for range before - r.trail.Depth() {
		r.at = r.at[:max(strings.LastIndexByte(r.at, '/'), 0)]
	}
	if errors.Is(err, dirfd.ErrMoved) {
		return nil
	}
	return err
}

// sharedDir returns how long the path of the deepest directory is that two paths have in common, 0 for the root.
func sharedDir(a, b string) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	if (n == len(a) || a[n] == '/') && (n == len(b) || b[n] == '/') {
		return n
	}
	return max(strings.LastIndexByte(a[:n], '/'), 0)
}

// File opens the file at a clean relative path for reading.
func (r *DirReader) File(path string) (int, error) {
	dir, base := tarcodec.SplitName(path)
	at, err := r.Dir(dir)
	if err != nil {
		return -1, err
	}
	return OpenFileAt(at, base)
}

// Close closes what the reader has opened.
func (r *DirReader) Close() { r.trail.Close() }
