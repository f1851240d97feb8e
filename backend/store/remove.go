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
// before it returns and deletes the data in the background. Removing an unknown layer succeeds.
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
	if err := s.retire(ctx, l); err != nil {
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

// retire ends what happens on a condemned layer and takes it out of the tree.
func (s *Store) retire(ctx context.Context, l *layer) error {
	if err := s.cancelPins(ctx, l); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := s.unmountAll(context.WithoutCancel(ctx), l); err != nil {
		return err
	}
	if err := failpoint.Hit("store.remove.unmounted"); err != nil {
		return err
	}
	if err := s.update(l, func(r *record) { r.State = StateRemoving }); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byName, l.rec.Name)
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

// erase deletes a layer's data and then its record. It may be repeated.
func (s *Store) erase(ctx context.Context, l *layer) error {
	if err := s.backend.Remove(ctx, s.describe(l)); err != nil {
		return err
	}
	if err := failpoint.Hit("store.remove.deleted"); err != nil {
		return err
	}
	for _, path := range []string{s.logPath(l), s.path(layersDir, l.rec.ID)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	s.mu.Lock()
	delete(s.byID, l.rec.ID)
	s.mu.Unlock()
	return failpoint.Hit("store.remove.forgotten")
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

// retryDelay is the pause after a deletion that failed.
const retryDelay = 10 * time.Second

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

func (d *deleter) next() *layer {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.queue) == 0 {
		return nil
	}
	l := d.queue[0]
	d.queue = d.queue[1:]
	return l
}

func (d *deleter) run(ctx context.Context) {
	defer close(d.done)
	for {
		l := d.next()
		pause := time.Duration(-1)
		if l != nil {
			err := d.store.erase(ctx, l)
			if err == nil {
				continue
			}
			if ctx.Err() == nil {
				log.G(ctx).WithError(err).WithField("layer", l.rec.Name).Error("delete layer; will try again")
			}
			d.add(l)
			pause = retryDelay
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
