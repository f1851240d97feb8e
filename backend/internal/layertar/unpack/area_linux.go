package unpack

import (
	"fmt"
	"path"
	"strconv"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strata/backend/internal/layertar/tarcodec"
)

// areaDir holds the files of AUFS's hard-link area while the tar is unpacked. Its name cannot come
// from a tar: the dialects with an area skip names that start so.
const areaDir = tarcodec.MetaPrefix + "strata"

// area is AUFS's hard-link area (".wh..wh.plnk"): files that are not part of the layer themselves
// but the targets of hard links in it.
type area struct {
	files map[string]string // name in the area: name in areaDir
	made  bool
}

// store unpacks a file into the area. The log keeps its data: it is nowhere else by the end.
func (r *area) store(a *applier, e *tarcodec.Entry, name string) error {
	if e.Kind != tarcodec.KindFile {
		return nil
	}
	if len(r.files) == maxPending {
		return errTooMany("files in "+tarcodec.LinkArea, maxPending)
	}
	at, err := a.newAttrs(e)
	if err != nil {
		return err
	}
	d, err := r.dir(a)
	if err != nil {
		return err
	}
	defer d.unpin()
	base := path.Base(name)
	if r.files == nil {
		r.files = map[string]string{}
	}
	own := strconv.Itoa(a.entries)
	r.files[base] = own
	a.touched.many = true // it gets other names
	var tee func([]byte)
	if a.o.Log != nil {
		tee = a.o.Log.Framing
	}
	return a.hand(&job{dir: d, acl: d.acl, name: own, kind: tarcodec.KindFile, attrs: at, size: e.Size}, e, tee)
}

func (r *area) dir(a *applier) (*dir, error) {
	if r.made {
		return a.tree.lookup(areaDir)
	}
	r.made = true
	d, err := a.replaceByDir(a.tree.root, areaDir, areaDir, 0o700, absent)
	a.tree.made[a.tree.key(areaDir)] = made{dir: true, fresh: true, covers: true} // marks do not reach it
	return d, err
}

// link makes a hard link to a file in the area. Docker copies the file instead; the content is the
// same, and the links stay links.
func (r *area) link(a *applier, target string, d *dir, base string) error {
	own, ok := r.files[path.Base(target)]
	if !ok {
		return fmt.Errorf("link to %q, which is not in the tar: %w", target, errdefs.ErrInvalidArgument)
	}
	from, err := r.dir(a)
	if err != nil {
		return err
	}
	defer from.unpin()
	if err := a.writers.wait(); err != nil {
		return err
	}
	if err := unix.Linkat(from.fd, own, d.fd, base, 0); err != nil {
		return fmt.Errorf("link to %q: %w", target, err)
	}
	a.tree.made[a.tree.key(tarcodec.JoinName(d.path, base))] = made{}
	return nil
}

// remove deletes the area. Further calls do nothing. The writers are idle.
func (r *area) remove(a *applier) error {
	if !r.made {
		return nil
	}
	r.made = false
	a.tree.drop(areaDir)
	if _, err := a.removeTree(a.tree.root, areaDir, true); err != nil {
		return fmt.Errorf("remove %s: %w", areaDir, err)
	}
	return nil
}
