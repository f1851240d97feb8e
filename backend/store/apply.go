package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"strata/backend"
	"strata/backend/internal/failpoint"
	"strata/backend/internal/layertar/dirsink"
	"strata/backend/internal/layertar/tarlog"
	"strata/backend/internal/layertar/unpack"
)

// logPath is where the headers of the tar that filled a layer are kept. A link has none.
func (s *Store) logPath(l *layer) string {
	root := s.cfg.Root
	if l.peer != nil {
		root = l.peer.root
	}
	return filepath.Join(root, logsDir, s.snapshot(l).ID)
}

// Apply fills a new layer from an uncompressed layer tar, seals it, and returns the sum of the file
// sizes. With SyncLayer the layer survives a power cut once Apply returned. A failed Apply leaves a
// layer that can only be removed, and so does a crash; a second Apply is ErrFailedPrecondition:
// Docker's client sends the rest of a broken stream again and would take the answer for success. So
// is one to a layer that may hold something else: it was mounted, or made before the store was opened.
func (s *Store) Apply(ctx context.Context, name string, r io.Reader) (int64, error) {
	a, err := s.apply(ctx, name, r, true)
	return a.Size, err
}

// Unpack applies an uncompressed layer tar to a layer that stays writable, whatever that holds, and describes the tar. It
// must not be mounted writable meanwhile. What was unpacked is durable once Commit returned. A failure has the
// consequences that one of Apply has.
func (s *Store) Unpack(ctx context.Context, name string, r io.Reader) (Applied, error) {
	return s.apply(ctx, name, r, false)
}

// apply unpacks a tar into a layer; whole says that it is to be all that the layer ever holds.
func (s *Store) apply(ctx context.Context, name string, r io.Reader, whole bool) (Applied, error) {
	ctx, l, err := s.beginApply(ctx, name, whole)
	if err != nil {
		return Applied{}, err
	}
	defer l.release()
	// Who began to read the empty layer would see a part of what comes.
	err = s.cancelPins(ctx, l.layer, l.pin, "is being filled")
	if cause := context.Cause(ctx); cause != nil { // the layer was removed, or the client went away
		err = cause
	}
	var a Applied
	if err == nil {
		a, err = s.fill(ctx, l.layer, r, whole)
	}
	if err != nil {
		return Applied{}, s.layerError("apply to", l.layer, interrupted(ctx, err))
	}
	return a, nil
}

// beginApply pins a layer and moves it to the state applying, if whole one that cannot hold anything yet. The returned context
// ends when the layer is removed.
func (s *Store) beginApply(ctx context.Context, name string, whole bool) (context.Context, pinned, error) {
	l, err := s.hold(ctx, name)
	if err != nil {
		return nil, pinned{}, err
	}
	defer l.mu.Unlock()
	if err := s.writable(); err != nil {
		return nil, pinned{}, err
	}
	if err := s.unused(l); err != nil {
		return nil, pinned{}, err
	}
	if whole && !l.fresh {
		return nil, pinned{}, fmt.Errorf("layer %q may have been written to, a tar would not be all that it holds: %w", l.rec.Name, errdefs.ErrFailedPrecondition)
	}
	ctx, p, err := s.pin(ctx, l)
	if err != nil {
		return nil, pinned{}, err
	}
	if err := s.noteApply(l); err != nil {
		p.release()
		return nil, pinned{}, err
	}
	return ctx, p, nil
}

// noteApply moves a layer to the state applying. It wants l.mu.
func (s *Store) noteApply(l *layer) error {
	if err := s.records.Fill(l.rec); err != nil {
		return err
	}
	s.setState(l, StateApplying)
	l.fresh = false
	if err := s.sync.step(); err != nil {
		return err
	}
	return failpoint.Hit("store.apply.begun")
}

// unused returns an error unless the layer may still be changed and nobody else does. It wants l.mu.
func (s *Store) unused(l *layer) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return l.unused()
}

// unused does the work of Store.unused. It wants l.mu and Store.mu.
func (l *layer) unused() error {
	if err := l.usable(); err != nil {
		return err
	}
	switch {
	case l.rec.Sealed || l.children > 0:
		return fmt.Errorf("layer %q has its content already: %w", l.rec.Name, errdefs.ErrFailedPrecondition)
	case l.mounted():
		return fmt.Errorf("layer %q is mounted: %w", l.rec.Name, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// fill unpacks r into a layer in state applying and makes it durable, and seals it if r is the whole.
func (s *Store) fill(ctx context.Context, l *layer, r io.Reader, whole bool) (a Applied, err error) {
	var log *tarlog.Writer
	exact := whole && s.meta.ExactDiffs
	if exact {
		if log, err = tarlog.Create(s.logPath(l)); err != nil {
			return a, err
		}
		defer func() { err = errors.Join(err, log.Abort()) }() // nothing after Close
	}
	d := s.describe(l)
	res, err := s.unpack(ctx, d, r, unpack.Options{Log: log})
	if err != nil {
		return a, err
	}
	noteOddities(ctx, s.snapshot(l).Name, res)
	if err := failpoint.Hit("store.apply.unpacked"); err != nil {
		return a, err
	}
	if err := s.sync.unpacked(ctx, d, log); err != nil {
		return a, err
	}
	if err := failpoint.Hit("store.apply.synced"); err != nil {
		return a, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := context.Cause(ctx); err != nil {
		return a, err
	}
	a = Applied{Size: res.Size, Bytes: res.Bytes, Digest: res.Digest, Exact: exact}
	if !whole { // Commit will make the record durable
		if err := s.records.Filled(l.rec); err != nil {
			return a, err
		}
		s.setState(l, StateReady)
		l.content.unpacked(&s.sync)
		return a, nil
	}
	if err := s.sealLocked(ctx, l, s.sync.record(), func(r *record) { r.State, r.Applied = StateReady, &a }); err != nil {
		return a, err
	}
	if err := failpoint.Hit("store.apply.recorded"); err != nil {
		return a, err
	}
	return a, errors.Join(s.records.Replaced(l.rec.ID), s.sync.step())
}

// setState notes a state that the name of the layer's record says. It wants l.mu.
func (s *Store) setState(l *layer, state State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.rec.State = state
}

// unpack applies a tar to a layer that nobody else uses.
func (s *Store) unpack(ctx context.Context, d backend.Layer, r io.Reader, o unpack.Options) (res unpack.Result, err error) {
	if s.able.sinker != nil {
		return s.unpackInto(ctx, d, r, o)
	}
	place, release, err := s.place(ctx, d)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, release()) }()
	return dirsink.Apply(ctx, place.Dir, r, dirsink.Options{
		Whiteouts: place.Whiteouts, Marks: place.Marks, Below: place.Below,
		IDMap: d.IDMap, Durable: s.sync.unpacks(),
	}, o)
}

// unpackInto applies a tar to a layer of a backend that keeps no files.
func (s *Store) unpackInto(ctx context.Context, d backend.Layer, r io.Reader, o unpack.Options) (res unpack.Result, err error) {
	sink, err := s.able.sinker.Sink(ctx, d)
	if err != nil {
		return res, err
	}
	o.IDMap = d.IDMap
	return unpack.Apply(ctx, sink, r, o)
}

// noteOddities logs what a layer's tar has and the layer has not, one line for each kind however many there are.
func noteOddities(ctx context.Context, name string, res unpack.Result) {
	for _, n := range []struct {
		unpack.Note
		text string
	}{
		{res.LeftOut, "the layer's tar has extended attributes that files here cannot have; they are left out"},
		{res.Devices0, "the layer's tar has character devices 0:0; on overlay they delete what is below, on other backends they are devices"},
	} {
		if n.Count > 0 {
			log.G(ctx).WithFields(log.Fields{"layer": name, "count": n.Count, "first": n.First}).Warn(n.text)
		}
	}
}
