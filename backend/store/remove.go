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
)

// Remove removes a layer: ends streams on it, unmounts it whatever its count, forgets the name
// before it returns and deletes the data in the background. After a power cut within the next moments
// the layer may be there again, whole. Removing an unknown layer succeeds. Several calls for one layer have one
// outcome, and all wait for it; until then the layer is there for Stat and List, and for nobody else.
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
	l, r, first, err := s.condemn(ctx, name, withChildren)
	switch {
	case errdefs.IsNotFound(err):
		return nil
	case err != nil:
		return err
	case !first:
		return r.wait(ctx, name)
	}
	return s.carryOut(ctx, l, r)
}

// removeIf removes a layer that nobody mounts, reads, fills or removes, if the reason for it still holds. still wants Store.mu.
func (s *Store) removeIf(ctx context.Context, l *layer, still func() bool) (removed bool, err error) {
	l.mu.Lock()
	s.mu.Lock()
	if l.gone || l.peer != nil || l.children > 0 || l.mounted() || len(l.pins) > 0 || !still() {
		s.mu.Unlock()
		l.mu.Unlock()
		return false, nil
	}
	r := &removal{done: make(chan struct{})}
	l.gone, l.removal = true, r
	s.mu.Unlock()
	l.mu.Unlock()
	return true, s.carryOut(ctx, l, r)
}

// carryOut takes a condemned layer away.
func (s *Store) carryOut(ctx context.Context, l *layer, r *removal) error {
	if err := s.retire(ctx, l); err != nil {
		err = s.layerError("remove", l, err)
		s.mu.Lock()
		l.gone, l.removal = false, nil
		s.mu.Unlock()
		r.end(err)
		return err
	}
	s.mu.Lock()
	leaving := l.leave()
	s.mu.Unlock()
	s.deleter.add(leaving...)
	r.end(nil)
	return failpoint.Hit("store.remove.recorded")
}

// removal is a Remove under way, for others that want the same.
type removal struct {
	done chan struct{} // closed when err is set
	err  error
}

func (r *removal) end(err error) {
	r.err = err
	close(r.done)
}

// wait waits for the removal and returns its outcome.
func (r *removal) wait(ctx context.Context, name string) error {
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return fmt.Errorf("remove layer %q: wait for its removal, which is under way: %w", name, context.Cause(ctx))
	}
}

// condemn marks the layer that has a name as gone, so that nothing new starts on it. It does so under the layer's lock: what
// was under way there has ended, whole, and what comes later sees that the layer is gone. first is false if another Remove has
// done so: its outcome is that of all. Errors are those of lookup and Remove.
func (s *Store) condemn(ctx context.Context, name string, withChildren bool) (l *layer, r *removal, first bool, err error) {
	l, err = s.meant(ctx, name, func(l *layer) error {
		r = l.removal // which may hold the lock
		return nil
	})
	if err != nil || r != nil {
		return l, r, false, err
	}
	if l, err = s.hold(ctx, name); err != nil {
		return nil, nil, false, err
	}
	defer l.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case l.peer != nil:
		return nil, nil, false, fmt.Errorf("layer %q lies in the read-only store %s: %w", name, l.peer.root, errdefs.ErrFailedPrecondition)
	case l.removal != nil:
		return l, l.removal, false, nil
	case l.children > 0 && !withChildren:
		return nil, nil, false, fmt.Errorf("layer %q is the parent of %d other layers: %w", name, l.children, errdefs.ErrFailedPrecondition)
	}
	l.gone, l.removal = true, &removal{done: make(chan struct{})}
	return l, l.removal, true, nil
}

// retire ends what happens on a condemned layer and takes it out of the tree.
func (s *Store) retire(ctx context.Context, l *layer) error {
	if err := s.cancelPins(ctx, l, nil, "was removed"); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
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
	s.unname(l)
	return nil
}

// unname takes a layer's name away, if the layer still has it. It wants Store.mu.
func (s *Store) unname(l *layer) {
	if s.byName[l.rec.Name] == l {
		delete(s.byName, l.rec.Name)
	}
}

// markGone renames the record of a layer that is removed or whose making failed. It wants l.mu, unless the layer has left the tree.
func (s *Store) markGone(l *layer) error {
	err := s.records.Retire(l.rec.ID, s.snapshot(l).State, s.sync.record())
	if err == nil || !errdefs.IsResourceExhausted(classify(err)) {
		return err
	}
	s.mu.RLock()
	needed := l.children > 0
	s.mu.RUnlock()
	if needed {
		return err
	}
	// ZFS and btrfs have no room for a rename on a full disk, but for a deletion. After a crash the data is without a record: strata gc.
	return s.records.Drop(l.rec.ID)
}

// leave takes a removed layer out of the tree unless it has children or is read, and with it the removed parents
// that only waited for it. It returns who left, children first, and wants Store.mu.
func (l *layer) leave() (leaving []*layer) {
	for ; l != nil && l.rec.State == StateRemoving && l.children == 0 && len(l.pins) == 0 && !l.left; l = l.parent {
		l.left = true
		leaving = append(leaving, l)
		if l.parent != nil {
			l.parent.children--
		}
	}
	return leaving
}

// erase deletes the data of removed layers, in their order, and then their records, so that at no
// moment there is data without a record or, after a crash, a whole record without data. It
// returns the layers that are left. It may be repeated.
func (s *Store) erase(ctx context.Context, layers []*layer) (left []*layer, err error) {
	var errs []error
	var marked, erased []*layer
	for _, l := range layers {
		if err := s.markGone(l); err != nil { // which may have failed before, on a full disk
			left, errs = append(left, l), append(errs, err)
			continue
		}
		marked = append(marked, l)
	}
	if err := s.sync.names(); err != nil {
		return layers, errors.Join(append(errs, err)...)
	}
	for _, l := range marked {
		if err := s.eraseData(ctx, l); err != nil {
			left, errs = append(left, l), append(errs, err)
			continue
		}
		erased = append(erased, l)
	}
	if err := s.sync.deleted(); err != nil {
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
		return s.layerError("delete", l, err)
	}
	return failpoint.Hit("store.remove.deleted")
}

// forget removes the record of a layer without data.
func (s *Store) forget(l *layer) error {
	if err := os.Remove(s.logPath(l)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := s.records.Forget(l.rec.ID); err != nil {
		return err
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

// stop interrupts the deletion in progress and waits until it has noticed, but not longer than ctx. It may be repeated.
func (d *deleter) stop(ctx context.Context) error {
	d.cancel()
	select {
	case <-d.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the deletion of removed layers to stop: %w", context.Cause(ctx))
	}
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
