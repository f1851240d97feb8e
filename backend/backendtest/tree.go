package backendtest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Entry is everything that is compared of one file.
type Entry struct {
	Mode     os.FileMode // type, permissions and special bits
	UID, GID uint32
	Size     int64  // regular files
	Digest   string // of a regular file's content
	Target   string // of a symbolic link
	Device   uint64 // number of a device
	Time     time.Time
	Xattrs   map[string]string
	Group    string // first name of a group of hard links, "" if the file has one name only
}

// Tree is a directory's content by path, "." being the directory itself.
type Tree map[string]Entry

// ReadTree reads the whole tree below dir. The time of dir itself is left out: no layer tar
// carries it.
func ReadTree(dir string) (Tree, error) {
	r := treeReader{root: dir, tree: Tree{}, groups: map[inodeKey][]string{}}
	if err := filepath.WalkDir(dir, r.visit); err != nil {
		return nil, fmt.Errorf("read tree: %w", err)
	}
	for _, names := range r.groups {
		sort.Strings(names)
		for _, n := range names {
			if len(names) > 1 {
				e := r.tree[n]
				e.Group = names[0]
				r.tree[n] = e
			}
		}
	}
	return r.tree, nil
}

type inodeKey struct{ dev, ino uint64 }

type treeReader struct {
	root   string
	tree   Tree
	groups map[inodeKey][]string // names in the tree of each inode with several links
}

func (r *treeReader) visit(path string, d fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	fi, err := d.Info()
	if err != nil {
		return err
	}
	in, err := inodeOf(fi)
	if err != nil {
		return err
	}
	name, err := filepath.Rel(r.root, path)
	if err != nil {
		return err
	}
	e := Entry{Mode: fi.Mode(), UID: in.uid, GID: in.gid, Time: fi.ModTime().UTC()}
	switch fi.Mode().Type() {
	case 0:
		e.Size = fi.Size()
		e.Digest, err = digestFile(path)
	case os.ModeSymlink:
		e.Target, err = os.Readlink(path)
	case os.ModeDevice, os.ModeDevice | os.ModeCharDevice:
		e.Device = in.rdev
	}
	if err != nil {
		return err
	}
	if e.Xattrs, err = xattrs(path); err != nil {
		return err
	}
	if name == "." {
		e.Time = time.Time{}
	}
	if !fi.IsDir() && in.links > 1 {
		k := inodeKey{in.dev, in.ino}
		r.groups[k] = append(r.groups[k], name)
	}
	r.tree[name] = e
	return nil
}

func digestFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %q: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// recent is how far back a time counts as "set by the test just now". Times that rows set on
// purpose lie years back.
const recent = 24 * time.Hour

// justNow stands for every recent time, so that two trees made one after the other can be equal.
var justNow = time.Unix(0, 0).UTC()

// WithoutClock returns the tree with all recent times replaced by one value.
func (t Tree) WithoutClock() Tree {
	limit := time.Now().Add(-recent)
	out := make(Tree, len(t))
	for name, e := range t {
		if e.Time.After(limit) && e.Time.Before(limit.Add(2*recent)) {
			e.Time = justNow
		}
		out[name] = e
	}
	return out
}

// clockNote says what WithoutClock has put into one of two entries and not into the other.
func clockNote(want, got Entry) string {
	if want.Time.Equal(justNow) == got.Time.Equal(justNow) {
		return ""
	}
	return "; 1970-01-01 stands for any time within a day of now"
}

// Owners returns the tree with every owner replaced by f's answer.
func (t Tree) Owners(f func(uid, gid uint32) (uint32, uint32)) Tree {
	out := make(Tree, len(t))
	for name, e := range t {
		e.UID, e.GID = f(e.UID, e.GID)
		out[name] = e
	}
	return out
}

// Diff describes how two trees differ, at most the first 20 paths; "" if they are equal.
func Diff(want, got Tree) string {
	names := map[string]bool{}
	for n := range want {
		names[n] = true
	}
	for n := range got {
		names[n] = true
	}
	var wrong []string
	for n := range names {
		w, inWant := want[n]
		g, inGot := got[n]
		switch {
		case !inGot:
			wrong = append(wrong, fmt.Sprintf("%q is missing", n))
		case !inWant:
			wrong = append(wrong, fmt.Sprintf("%q should not be there", n))
		case !cmp.Equal(w, g):
			wrong = append(wrong, fmt.Sprintf("%q (-want +got%s):\n%s", n, clockNote(w, g), cmp.Diff(w, g)))
		}
	}
	sort.Strings(wrong)
	if n := len(wrong); n > 20 {
		wrong = append(wrong[:20], fmt.Sprintf("... and %d more", n-20))
	}
	return strings.Join(wrong, "\n")
}
