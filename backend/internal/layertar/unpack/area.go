package unpack

import (
	"fmt"
	"path"
	"strconv"
	"time"

	"github.com/containerd/errdefs"

	"strata/backend"
	"strata/backend/internal/layertar/tarcodec"
)

// areaDir holds the files of AUFS's hard-link area while the tar is unpacked. Its name cannot come
// from a tar: where names have a meaning, those that start so are skipped.
const areaDir = tarcodec.MetaPrefix + "strata"

// store unpacks a file into the area. The log keeps its data: it is nowhere else by the end.
func (r *area) store(p *parser, e *tarcodec.Entry, name string) error {
	if e.Kind != tarcodec.KindFile {
		return nil
	}
	if len(r.files) == maxPending {
		return errTooMany("files in "+tarcodec.LinkArea, maxPending)
	}
	if err := r.make(p); err != nil {
		return err
	}
	if r.files == nil {
		r.files = map[string]string{}
	}
	own := tarcodec.JoinName(areaDir, strconv.Itoa(p.entries))
	if err := p.describe(e, own); err != nil {
		return err
	}
	r.files[name] = own
	return p.put(e, way{tee: p.files.framing()})
}

// make makes the area.
func (r *area) make(p *parser) error {
	if r.made {
		return nil
	}
	uid, gid, err := p.o.IDMap.Root()
	if err != nil {
		return err
	}
	r.made = true
	_, err = p.sink.Put(&backend.Entry{
		Name: areaDir, Path: areaDir, Mode: typeDir | 0o700, UID: uid, GID: gid, Atime: time.Unix(0, 0), Mtime: time.Unix(0, 0),
	}, nil)
	return err
}

// link makes the entry that was described last a hard link to a file in the area. Docker copies the
// file instead; the content is the same, and the links stay links.
func (r *area) link(p *parser, target string) error {
	own, ok := r.files[path.Base(target)]
	if !ok {
		return fmt.Errorf("link to %q, which is not in the tar: %w", target, errdefs.ErrInvalidArgument)
	}
	p.entry.Target, p.entry.Bare = own, true
	_, late, err := p.sink.Link(&p.entry, false)
	if late && err == nil {
		err = fmt.Errorf("link to %q, which has gone: %w", target, errdefs.ErrInternal)
	}
	return err
}

// remove deletes the area.
func (r *area) remove(s backend.Sink) error {
	if !r.made {
		return nil
	}
	return s.Remove(areaDir)
}
