package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"strata/backend/internal/failpoint"
	"strata/backend/internal/tree"
)

// Remove removes a layer: ends streams on it, unmounts it whatever its count, forgets the name
// before it returns and deletes the data in the background. After a power cut within the next moments
// the layer may be there again, whole. Removing an unknown layer succeeds.
// ErrFailedPrecondition if it has children or lies in an additional store, ErrUnavailable if a
// stream on it does not end.
func (s *Store) Remove(ctx context.Context, name string) error {
	return s.remove(ctx, name, false)
}

// Discard is Remove for a client that may have forgotten children of the layer, as Docker has after
// it was killed: such a layer loses its name now and goes with the last of its children.
func (s *Store) Discard(ctx context.Context, name string) error {
	return s.remove(ctx, name, true)
}

func (s *Store) remove(ctx context.Context, name string, withChildren bool) error {
	if err := s.writable(); err != nil {
		return err
	}
	l, err := s.lookup(name)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := s.condemn(l, withChildren); err != nil {
		return err
	}
	if err := s.retire(ctx, l, name); err != nil {
		s.mu.Lock()
		l.gone = false
		s.mu.Unlock()
		return fmt.Errorf("remove layer %q: %w", name, err)
	}
	s.mu.Lock()
	leaving := l.leave()
	s.mu.Unlock()
	s.deleter.add(leaving...)
	return failpoint.Hit("store.remove.recorded")
}

// condemn marks a layer as gone, so that nothing new starts on it.
func (s *Store) condemn(l *layer, withChildren bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case l.peer != nil:
		return fmt.Errorf("layer %q lies in the read-only store %s: %w", l.rec.Name, l.peer.root, errdefs.ErrFailedPrecondition)
	case l.children > 0 && !withChildren:
		return fmt.Errorf("layer %q is the parent of %d other layers: %w", l.rec.Name, l.children, errdefs.ErrFailedPrecondition)
	}
	l.gone = true
	return nil
}

// retire ends what happens on a condemned layer and takes it out of the tree, unless a Commit that was under way has
// given it another name.
func (s *Store) retire(ctx context.Context, l *layer, name string) error {
	if err := s.cancelPins(ctx, l); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if as := s.snapshot(l).Name; as != name {
		return fmt.Errorf("it was committed as %q meanwhile: %w", as, errdefs.ErrUnavailable)
	}
	if err := s.unmountAll(context.WithoutCancel(ctx), l); err != nil {
		return err
	}
	if err := s.deactivate(context.WithoutCancel(ctx), l, returnedNow); err != nil {
		return err
	}
	if err := failpoint.Hit("store.remove.unmounted"); err != nil {
		return err
	}
	if err := s.markGone(l); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l.rec.State = StateRemoving
	delete(s.byName, l.rec.Name)
	return nil
}

// markGone renames the record of a layer that is removed or whose making failed. It wants l.mu.
func (s *Store) markGone(l *layer) error {
	path := s.path(layersDir, l.rec.ID)
	if s.snapshot(l).State == StateApplying {
		// ID.part says as much, unless a record is left that was to follow it. Where the disk is full, ZFS has no room for a rename.
		if err := os.Remove(path + newSuffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	for _, from := range []string{path + newSuffix, path} { // it may have no record yet, and two after a failure
		if err := os.Rename(from, path+goneSuffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// leave takes a removed layer out of the tree unless it has children, and with it the removed parents
// that only waited for it. It returns who left, children first, and wants Store.mu.
func (l *layer) leave() (leaving []*layer) {
	for ; l != nil && l.rec.State == StateRemoving && l.children == 0 && !l.left; l = l.parent {
		l.left = true
		leaving = append(leaving, l)
		if l.parent != nil {
			l.parent.children--
		}
	}
	return leaving
}

// erase deletes the data of removed layers, in their order, and then their records, so that at no
// moment there is data without a record or, after a power cut, a whole record without data. It
// returns the layers that are left. It may be repeated.
func (s *Store) erase(ctx context.Context, layers []*layer) (left []*layer, err error) {
	if err := s.syncRecords(); err != nil {
		return layers, err
	}
	var errs []error
	var erased []*layer
	for _, l := range layers {
		if err := s.eraseData(ctx, l); err != nil {
			left, errs = append(left, l), append(errs, err)
			continue
		}
		erased = append(erased, l)
	}
	if err := s.syncDeleted(); err != nil {
		return layers, errors.Join(append(errs, err)...)
	}
	for _, l := range erased {
		if err := s.forget(l); err != nil {
			left, errs = append(left, l), append(errs, err)
		}
	}
	return left, errors.Join(errs...)
}

func (s *Store) eraseData(ctx context.Context, l *layer) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.deactivate(ctx, l, none); err != nil { // a layer that was left unfinished
		return err
	}
	if l.link {
		return nil
	}
	if err := s.backend.Remove(ctx, s.describe(l)); err != nil {
		return fmt.Errorf("delete layer %q: %w", l.rec.Name, err)
	}
	return failpoint.Hit("store.remove.deleted")
}

// syncDeleted makes it durable that data is gone from the backend's home.
func (s *Store) syncDeleted() error {
	if !s.durable() {
		return nil
	}
	return tree.SyncDeleted(home(s.cfg.Root, s.meta.Backend))
}

// forget removes the record of a layer without data.
func (s *Store) forget(l *layer) error {
	record := s.path(layersDir, l.rec.ID)
	for _, path := range []string{s.logPath(l), record + partSuffix, record + newSuffix, record, record + goneSuffix} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	s.mu.Lock()
	delete(s.byID, l.rec.ID)
	s.mu.Unlock()
	return failpoint.Hit("store.remove.forgotten")
}

// Settle waits until the data of all removed layers is deleted.
func (s *Store) Settle(ctx context.Context) error {
	const pause = 5 * time.Millisecond
	for {
		s.mu.RLock()
		waiting := 0
		for _, l := range s.byID {
			if l.left {
				waiting++
			}
		}
		s.mu.RUnlock()
		if waiting == 0 || s.deleter == nil {
			return nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("%d removed layers are still not deleted: %w", waiting, ctx.Err())
		}
	}
}

// deleter deletes the data of removed layers one after the other, in the order of their removal,
// so that a child goes before its parent. What fails is tried again later and after the next Open.
type deleter struct {
	store  *Store
	cancel context.CancelFunc
	done   chan struct{}
	wake   chan struct{}

	mu    sync.Mutex
	queue []*layer
}

// A deletion that failed is tried again after a pause, which doubles each time.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 10 * time.Second
)

func newDeleter(ctx context.Context, s *Store) *deleter {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	d := &deleter{store: s, cancel: cancel, done: make(chan struct{}), wake: make(chan struct{}, 1)}
	go d.run(ctx)
	return d
}

func (d *deleter) add(layers ...*layer) {
	d.mu.Lock()
	d.queue = append(d.queue, layers...)
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default: // it is awake
	}
}

// stop waits for the deletion in progress to be interrupted.
func (d *deleter) stop() {
	d.cancel()
	<-d.done
}

// take empties the queue.
func (d *deleter) take() []*layer {
	d.mu.Lock()
	defer d.mu.Unlock()
	batch := d.queue
	d.queue = nil
	return batch
}

func (d *deleter) run(ctx context.Context) {
	defer close(d.done)
	failures := 0 // in a row
	for {
		pause := time.Duration(-1)
		if batch := d.take(); len(batch) > 0 {
			left, err := d.store.erase(ctx, batch)
			if err == nil {
				failures = 0
				continue
			}
			if ctx.Err() == nil {
				log.G(ctx).WithError(err).Error("removed layers are not deleted yet; will try again")
			}
			d.add(left...)
			pause = min(firstPause<<failures, lastPause)
			failures = min(failures+1, 10)
		}
		if !d.sleep(ctx, pause) {
			return
		}
	}
}

// sleep waits for work, or for the pause if it is not negative. false means that it is time to stop.
func (d *deleter) sleep(ctx context.Context, pause time.Duration) bool {
	if pause < 0 {
		select {
		case <-d.wake:
			return true
		case <-ctx.Done():
			return false
		}
	}
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
