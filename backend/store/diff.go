package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"os"

	"strata/backend"
	"strata/backend/internal/layertar/dirsink"
	"strata/backend/internal/layertar/pack"
	"strata/backend/internal/layertar/tarcodec"
	"strata/backend/internal/layertar/tarlog"
)

// Diff writes the difference between the layer and parent as an uncompressed layer tar. parent may
// be any other layer, "" is the empty tree. A layer that Apply filled in a store with exact diffs
// gives back, against its own parent, the very bytes that it was given. Nothing is written if the
// error is known before the first byte; an error later means that what was written is worthless.
func (s *Store) Diff(ctx context.Context, name, parent string, w io.Writer) error {
	ctx, p, err := s.pair(ctx, name, parent)
	if err != nil {
		return err
	}
	defer p.release()
	return s.layerError("diff", p.layer, interrupted(ctx, s.writeDiff(ctx, p, w)))
}

// pairing is two layers that are about to be compared, pinned until release.
type pairing struct {
	layer   *layer
	parent  *layer // nil for the empty tree
	direct  bool   // parent is the layer's own
	release func()
}

// pair returns a context that ends when one of the two is removed.
func (s *Store) pair(ctx context.Context, name, parent string) (context.Context, *pairing, error) {
	ctx, l, err := s.pinReady(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	own := s.parentOf(l.data())
	if parent == "" {
		return ctx, &pairing{layer: l.layer, direct: own == nil, release: l.release}, nil
	}
	ctx, p, err := s.pinReady(ctx, parent)
	if err != nil {
		l.release()
		return nil, nil, fmt.Errorf("parent: %w", err)
	}
	return ctx, &pairing{layer: l.layer, parent: p.layer, direct: own == p.data(), release: func() { p.release(); l.release() }}, nil
}

// writeDiff writes the difference of a pair as a tar.
func (s *Store) writeDiff(ctx context.Context, p *pairing, w io.Writer) error {
	applied := s.snapshot(p.layer.data()).Applied
	if s.able.ways(p.direct, applied != nil && applied.Exact)[0] == wayLog {
		return s.replay(ctx, p.layer, w)
	}
	rec := s.snapshot(p.layer)
	return s.changes(ctx, p, func(at backend.Place, changes iter.Seq2[backend.Change, error]) error {
		// The upper directory of an overlay that was mounted before the layer was sealed can still be written to.
		vanished := !rec.Sealed || at.Marks != backend.WhiteoutsNone
		o := pack.Options{IDMap: rec.IDMap, Marks: at.Marks, Vanished: vanished}
		return pack.Changes(ctx, w, at.Dir, changes, o)
	})
}

// replay gives back the tar that filled a layer.
func (s *Store) replay(ctx context.Context, l *layer, w io.Writer) (err error) {
	src, release, err := s.source(ctx, l)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close(), release()) }()
	tar, err := tarlog.Open(s.logPath(l.data()))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tar.Close()) }()
	return tar.Replay(ctx, w, src)
}

// source opens the contents of the files that a tar has put into a layer.
func (s *Store) source(ctx context.Context, l *layer) (src backend.Source, release func() error, err error) {
	if s.able.sinker != nil {
		src, err = s.able.sinker.Source(ctx, s.describe(l))
		return src, func() error { return nil }, err
	}
	at, release, err := s.files(ctx, l)
	if err != nil {
		return nil, nil, err
	}
	if src, err = dirsink.Open(at.Dir); err != nil {
		return nil, nil, errors.Join(err, release())
	}
	return src, release, nil
}

// Changes lists the difference between the layer and parent ("" is the empty tree) in path order. An error is the last
// element. Both layers are pinned as long as the list is read; it is never in memory as a whole. A path that no layer's tar
// can have ends it with ErrInvalidArgument: some megabytes of directories inside each other would make gigabytes of paths.
func (s *Store) Changes(ctx context.Context, name, parent string) iter.Seq2[backend.Change, error] {
	return func(yield func(backend.Change, error) bool) {
		err := s.eachChange(ctx, "list changes of", name, parent, func(_ string, c backend.Change) error {
			if err := tarcodec.CheckName(c.Path); err != nil {
				return err
			}
			if !yield(c, nil) {
				return errStopped
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStopped) {
			yield(backend.Change{}, err)
		}
	}
}

// errStopped ends a list whose reader wants no more.
var errStopped = errors.New("stopped")

// DiffSize returns the sum of the sizes, in bytes, of the regular files that are in the layer but not in
// parent, hard links counted once, at most what 63 bits hold. Files that vanish while it looks are not counted.
func (s *Store) DiffSize(ctx context.Context, name, parent string) (int64, error) {
	l, err := s.ready(ctx, name)
	if err != nil {
		return 0, err
	}
	if a := s.snapshot(l).Applied; a != nil && s.info(l).Parent == parent {
		return a.Size, nil
	}
	var size int64
	seen := map[uint64]bool{}
	err = s.eachChange(ctx, "measure changes of", name, parent, func(dir string, c backend.Change) error {
		if c.Kind == backend.Deleted {
			return nil
		}
		fi, err := lstat(dir, c.Path)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil || !fi.file || fi.links > 1 && seen[fi.ino] {
			return err
		}
		if fi.links > 1 {
			seen[fi.ino] = true
		}
		size += min(fi.size, math.MaxInt64-size) // sparse files may add up to more
		return nil
	})
	if err != nil {
		return 0, err
	}
	return size, nil
}

// eachChange calls f for each change, with the directory below which the changed files are found. verb is what an error says.
func (s *Store) eachChange(ctx context.Context, verb, name, parent string, f func(dir string, c backend.Change) error) error {
	ctx, p, err := s.pair(ctx, name, parent)
	if err != nil {
		return err
	}
	defer p.release()
	err = s.changes(ctx, p, func(at backend.Place, changes iter.Seq2[backend.Change, error]) error {
		for c, err := range changes {
			if err != nil {
				return err
			}
			if err := f(at.Dir, c); err != nil {
				return err
			}
		}
		return nil
	})
	return s.layerError(verb, p.layer, interrupted(ctx, err))
}
