package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"time"

	"strata/backend/backendtest"
	"strata/test/e2e/engine"
)

// The shape of the trees: so few names that layers change and delete what is below them all the time.
const (
	treeDirs    = 5
	treeFiles   = 12    // a directory
	treeChanges = 14    // a layer, at most
	fileSize    = 6000  // at most, of most files
	bigFileSize = 400e3 // at most, of one in fifteen
)

// change is a layer tar and what a layer shows that has it on top of another one.
type change struct {
	tar    []byte
	digest string
	tree   engine.Manifest
}

// newChange makes a layer that changes below. It depends on rnd and below alone.
func newChange(rnd *rand.Rand, below engine.Manifest) (change, error) {
	var text bytes.Buffer
	w := changeWriter{rnd: rnd, tar: tar.NewWriter(&text), below: below, seen: map[string]bool{}}
	for range 1 + rnd.IntN(treeChanges) {
		if err := w.one(); err != nil {
			return change{}, fmt.Errorf("make layer: %w", err)
		}
	}
	if err := w.tar.Close(); err != nil {
		return change{}, fmt.Errorf("make layer: %w", err)
	}
	own, err := engine.ReadManifest(bytes.NewReader(text.Bytes()))
	if err != nil {
		return change{}, err
	}
	return change{text.Bytes(), fmt.Sprintf("%x", sha256.Sum256(text.Bytes())), onTop(below, own)}, nil
}

type changeWriter struct {
	rnd   *rand.Rand
	tar   *tar.Writer
	below engine.Manifest
	seen  map[string]bool // what the layer has
	file  *tar.Header     // a file of the layer, for links, nil if there is none yet
}

// one adds one change, unless the layer has one of that name.
func (w *changeWriter) one() error {
	dir := fmt.Sprintf("d%d", w.rnd.IntN(treeDirs))
	name := fmt.Sprintf("%s/f%02d", dir, w.rnd.IntN(treeFiles))
	kind := w.rnd.IntN(20)
	switch {
	case w.seen[name] || w.seen[".wh."+dir]:
		return nil
	case kind == 0 && !w.seen[dir] && w.below["/"+dir] != "":
		w.seen[".wh."+dir] = true
		return engine.AddFile(w.tar, ".wh."+dir, 0o644, nil)
	}
	if !w.seen[dir] {
		w.seen[dir] = true
		if err := engine.AddDir(w.tar, dir); err != nil {
			return err
		}
	}
	w.seen[name] = true
	h := tar.Header{Name: name, Mode: 0o777, ModTime: time.Unix(1e9+w.rnd.Int64N(1e8), 0), Format: tar.FormatPAX}
	switch {
	case kind < 5 && w.below["/"+name] != "":
		return engine.AddFile(w.tar, dir+"/.wh."+path.Base(name), 0o644, nil)
	case kind < 7:
		h.Typeflag, h.Linkname = tar.TypeSymlink, fmt.Sprintf("../to/%x", w.rnd.Uint32())
	case kind < 9 && w.file != nil:
		h = *w.file // a link has the owner, the mode and the time of what it leads to
		h.Name, h.Typeflag, h.Linkname, h.Size = name, tar.TypeLink, w.file.Name, 0
	default:
		size := w.rnd.IntN(fileSize)
		if w.rnd.IntN(15) == 0 {
			size = w.rnd.IntN(bigFileSize)
		}
		h.Typeflag, h.Size, h.Uid, h.Mode = tar.TypeReg, int64(size), w.rnd.IntN(3), 0o600+w.rnd.Int64N(0o100)
		file := h
		w.file = &file
	}
	if err := w.tar.WriteHeader(&h); err != nil {
		return err
	}
	_, err := w.tar.Write(backendtest.Noise(w.rnd.Uint64(), int(h.Size)))
	return err
}

// onTop returns what is seen of a layer on top of below.
func onTop(below, layer engine.Manifest) engine.Manifest {
	tree := engine.Manifest{}
	maps.Copy(tree, below)
	for p := range layer {
		if name, ok := strings.CutPrefix(path.Base(p), ".wh."); ok {
			gone := path.Join(path.Dir(p), name)
			maps.DeleteFunc(tree, func(p, _ string) bool { return p == gone || strings.HasPrefix(p, gone+"/") })
		}
	}
	for p, line := range layer {
		if !strings.HasPrefix(path.Base(p), ".wh.") && p != "/" {
			tree[p] = line
		}
	}
	return tree
}

// treeOf describes a directory's tree as [engine.ReadManifest] does a tar.
func treeOf(dir string) (engine.Manifest, error) {
	entries, err := backendtest.ReadTree(dir)
	if err != nil {
		return nil, err
	}
	m := engine.Manifest{}
	for name, e := range entries {
		owner := fmt.Sprintf("%d:%d", e.UID, e.GID)
		switch {
		case name == ".":
		case e.Mode.IsDir():
			m["/"+name] = fmt.Sprintf("%c %o %s", tar.TypeDir, e.Mode.Perm(), owner)
		case e.Mode.IsRegular():
			m["/"+name] = fmt.Sprintf("%c %o %s %d %d %.16s", tar.TypeReg, e.Mode.Perm(), owner, e.Time.Unix(), e.Size, e.Digest)
		case e.Target != "":
			m["/"+name] = fmt.Sprintf("%c %o %s -> %s", tar.TypeSymlink, e.Mode.Perm(), owner, e.Target)
		default:
			m["/"+name] = e.Mode.String()
		}
	}
	return m, nil
}

// difference names what is in only one of two trees, or not the same in both; "" if there is nothing.
func difference(want, got engine.Manifest) string {
	const most = 4 // lines
	var lines []string
	all := onTop(want, got)
	for _, p := range slices.Sorted(maps.Keys(all)) {
		if w, g := want[p], got[p]; w != g && p != "/" {
			lines = append(lines, fmt.Sprintf("%s is %q, want %q", p, g, w))
		}
	}
	if len(lines) > most {
		lines = append(lines[:most], fmt.Sprintf("and %d more", len(lines)-most))
	}
	return strings.Join(lines, "; ")
}
