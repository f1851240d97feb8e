package store

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"strata/backend"
	"strata/backend/store/records"
)

// record is what is known of a layer on the disk.
type record = records.Record

// layer is a layer in memory.
//
// Two locks guard it. mu serialises the operations that change the layer or its mounts. Store.mu guards the
// fields from parent on. The activation has a lock of its own. doc.go has the order of locks.
type layer struct {
	mu    sync.Mutex
	count atomic.Int32 // Mounts without Unmount; changed under mu
	views atomic.Int32 // mounts for the store's own use, which no client undoes; changed under mu
	own   bool         // noted as mounted for the store itself only (Store.noteOwn); guarded by mu

	// fresh says that the layer was made empty by this process and never mounted writable: only then
	// is a tar all that it holds. Guarded by mu.
	fresh   bool
	content persistence // guarded by mu

	act activation

	link bool  // another name of parent, without data; fixed
	peer *peer // the additional store it lies in, nil for our own; fixed

	parent   *layer // changed under mu, too, and only while the layer is detached
	rec      record // ID, Created and Label are fixed; Name and Parent are changed under mu, too
	children int
	held     int      // how many of the children are damaged records
	gone     bool     // removed, or about to be: nothing new may start
	removal  *removal // the Remove that takes it away, nil while none does
	left     bool     // removed and without children: the deleter has it
	pins     map[*pin]bool
	outside  bool // mounted in MountDir although it has an ID map, by an earlier version
}

// pin is a stream that reads or fills a layer.
type pin struct {
	cancel    context.CancelCauseFunc
	interrupt func() // of WithInterrupt, nil for none
	done      chan struct{}
}

// end tells the stream why it ends, and lets it wait for its client no longer. It wants Store.mu.
func (p *pin) end(cause error) {
	p.cancel(cause)
	if p.interrupt != nil {
		p.interrupt()
	}
}

// interruptKey is the key of WithInterrupt's function in a context.
type interruptKey struct{}

// WithInterrupt returns a context for Apply, Unpack, Diff and Changes whose client may keep them waiting for as long as it likes: when
// a Remove ends the stream, it calls interrupt, which makes a Read of the client's tar or a Write to it that waits return. interrupt is called
// as long as the stream goes on only, at any time and perhaps more than once. It must not wait, nor call the store.
func WithInterrupt(ctx context.Context, interrupt func()) context.Context {
	return context.WithValue(ctx, interruptKey{}, interrupt)
}

// newID returns 80 random bits in base 32: no counter has to survive a crash for an ID never to
// be used twice.
func newID() string {
	b := make([]byte, 10)
	_, _ = rand.Read(b) // documented never to fail
	return strings.ToLower(base32.StdEncoding.EncodeToString(b))
}

// lookup returns a layer that is neither removed nor being made; it may be one that is being removed. ErrNotFound,
// ErrUnavailable if an additional store that may have it does not answer.
func (s *Store) lookup(ctx context.Context, name string) (*layer, error) {
	s.mu.RLock()
	l := s.find(name)
	s.mu.RUnlock()
	if l == nil {
		changed, err := s.reloadPeers(ctx)
		if err != nil {
			return nil, fmt.Errorf("layer %q: %w", name, err)
		}
		if changed {
			s.mu.RLock()
			l = s.find(name)
			s.mu.RUnlock()
		}
	}
	if l == nil {
		return nil, fmt.Errorf("layer %q: %w", name, errdefs.ErrNotFound)
	}
	return l, nil
}

// meant looks a layer up and calls f while the name means it: one that was removed, replaced or given another name meanwhile is
// looked up again. f wants s.mu. Errors are those of lookup and of f.
func (s *Store) meant(ctx context.Context, name string, f func(*layer) error) (*layer, error) {
	for {
		l, err := s.lookup(ctx, name)
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		if s.find(name) == l {
			defer s.mu.Unlock()
			return l, f(l)
		}
		s.mu.Unlock()
	}
}

// hold looks a layer up and takes its lock: whoever had to wait for that has the layer that the name means afterwards. Errors
// are those of lookup.
func (s *Store) hold(ctx context.Context, name string) (*layer, error) {
	for {
		l, err := s.lookup(ctx, name)
		if err != nil {
			return nil, err
		}
		l.mu.Lock()
		s.mu.RLock()
		same := s.find(name) == l
		s.mu.RUnlock()
		if same {
			return l, nil
		}
		l.mu.Unlock()
	}
}

// holdReady is hold for a usable layer, and returns its record as well.
func (s *Store) holdReady(ctx context.Context, name string) (*layer, record, error) {
	l, err := s.hold(ctx, name)
	if err != nil {
		return nil, record{}, err
	}
	rec, err := s.stillUsable(l)
	if err != nil {
		l.mu.Unlock()
		return nil, rec, err
	}
	return l, rec, nil
}

// find wants s.mu.
func (s *Store) find(name string) *layer {
	l := s.byName[name]
	if l == nil {
		for _, p := range s.peers {
			if l = p.byName[name]; l != nil {
				break
			}
		}
	}
	if l == nil || l.rec.State == StateCreating || l.rec.Name != name { // about to be called so
		return nil
	}
	return l
}

// usable returns an error unless the layer's content, and that of all below, is complete. It wants s.mu.
func (l *layer) usable() error {
	if l.gone {
		return fmt.Errorf("layer %q: %w", l.rec.Name, errdefs.ErrNotFound)
	}
	return l.readable()
}

// readable is usable for whoever has pinned the layer: it may have been removed, or replaced, since. It wants s.mu.
func (l *layer) readable() error {
	if l.rec.State != StateReady && l.rec.State != StateRemoving {
		return fmt.Errorf("layer %q is %s, it can only be removed: %w", l.rec.Name, l.rec.State, errdefs.ErrFailedPrecondition)
	}
	return l.whole()
}

// whole returns ErrDataLoss if a layer below, however far, has no record: what it held would be missing without a word. It
// wants s.mu.
func (l *layer) whole() error {
	for below := l; below != nil; below = below.parent {
		if below.rec.Parent != "" && below.parent == nil {
			return fmt.Errorf("layer %q: the record of layer %s below it is missing or damaged, see strata check: %w", l.rec.Name, below.rec.Parent, errdefs.ErrDataLoss)
		}
	}
	return nil
}

// intact reports whether all layers below have a record.
func (s *Store) intact(l *layer) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return l.whole() == nil
}

// mounted reports whether somebody has mounted the layer.
func (l *layer) mounted() bool { return l.count.Load() > 0 || l.views.Load() > 0 }

// stillUsable returns the record of a layer that may have been removed, or given another name, while its lock was waited for.
func (s *Store) stillUsable(l *layer) (record, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return l.rec, l.usable()
}

// ready looks a usable layer up.
func (s *Store) ready(ctx context.Context, name string) (*layer, error) {
	return s.meant(ctx, name, (*layer).usable)
}

// snapshot returns a copy of the layer's record.
func (s *Store) snapshot(l *layer) record {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return l.rec
}

// describe returns what a backend is told about the layer.
func (s *Store) describe(l *layer) backend.Layer {
	s.mu.RLock()
	defer s.mu.RUnlock()
	l = l.data()
	return backend.Layer{
		ID: l.rec.ID, Limit: l.rec.Limit, IDMap: l.rec.IDMap, Sealed: l.rec.Sealed, Detached: l.rec.Detached,
		Parents: l.parent.lineage(),
	}
}

// chain returns what a backend is told about a layer on top of parent.
func (s *Store) chain(parent *layer) []backend.Parent {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return parent.lineage()
}

// lineage describes the layer and those below it, nearest first. It wants s.mu.
func (l *layer) lineage() (list []backend.Parent) {
	for ; l != nil; l = l.parent {
		if !l.link {
			list = append(list, backend.Parent{ID: l.rec.ID, IDMap: l.rec.IDMap})
		}
	}
	return list
}

// data returns the layer that has the data: l itself unless that is a link. The parent of a link never changes. It may have
// been removed as far as its client knows; the link keeps it.
func (l *layer) data() *layer {
	for l.link && l.parent != nil {
		l = l.parent
	}
	return l
}

// parentOf returns the layer that has the data below l, nil for none.
func (s *Store) parentOf(l *layer) *layer {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if l.parent == nil {
		return nil
	}
	return l.parent.data()
}

// update changes the layer's record on disk and then in memory. It wants l.mu.
func (s *Store) update(l *layer, change func(*record)) error {
	if err := s.rewrite(l, s.sync.record(), change); err != nil {
		return err
	}
	return s.sync.step()
}

// rewrite is update without the final directory sync. Without an ordered journal a power cut may undo it, or tear a
// draft's record, until durability.step. sync makes the new text durable.
func (s *Store) rewrite(l *layer, sync records.Syncer, change func(*record)) error {
	old := s.snapshot(l)
	rec := old
	change(&rec)
	if err := s.records.Replace(old, rec, sync); err != nil {
		return err
	}
	s.setRecord(l, rec)
	return nil
}

func (s *Store) setRecord(l *layer, rec record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.rec = rec
}

// pinned is a layer that is not deleted until release is called.
type pinned struct {
	*layer
	pin     *pin
	release func()
}

// pinReady looks a usable layer up and pins it. The returned context ends when the layer is removed.
func (s *Store) pinReady(ctx context.Context, name string) (context.Context, pinned, error) {
	var p pinned
	pinnedCtx := ctx
	_, err := s.meant(ctx, name, func(l *layer) error {
		if err := l.usable(); err != nil {
			return err
		}
		pinnedCtx, p = s.pinHeld(ctx, l)
		return nil
	})
	return pinnedCtx, p, err
}

// pin is pinReady for a layer that may be unfinished.
func (s *Store) pin(ctx context.Context, l *layer) (context.Context, pinned, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.gone {
		return nil, pinned{}, fmt.Errorf("layer %q: %w", l.rec.Name, errdefs.ErrNotFound)
	}
	ctx, p := s.pinHeld(ctx, l)
	return ctx, p, nil
}

// pinHeld pins a layer that is not gone. It wants s.mu.
func (s *Store) pinHeld(ctx context.Context, l *layer) (context.Context, pinned) {
	interrupt, _ := ctx.Value(interruptKey{}).(func())
	ctx, cancel := context.WithCancelCause(ctx)
	p := &pin{cancel: cancel, interrupt: interrupt, done: make(chan struct{})}
	if l.pins == nil {
		l.pins = map[*pin]bool{}
	}
	l.pins[p] = true
	return ctx, pinned{l, p, func() {
		s.mu.Lock()
		delete(l.pins, p)
		leaving := l.leave() // it may have been replaced
		s.mu.Unlock()
		close(p.done)
		cancel(nil)
		if len(leaving) > 0 {
			s.deleter.add(leaving...)
		}
	}}
}

// interrupted returns the error of a stream, or who ended the stream if it only says that somebody did.
func interrupted(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && cause != nil && errors.Is(err, ctx.Err()) {
		return cause
	}
	return err
}

// streamGrace is how long Remove waits for a stream that it cancelled, for instance one whose
// client does not read and cannot be interrupted.
const streamGrace = 10 * time.Second

// cancelPins ends all streams on a layer but one, nil for none, and says what has happened to the layer. No new one begins, since
// the layer is gone or being filled.
func (s *Store) cancelPins(ctx context.Context, l *layer, but *pin, what string) error {
	s.mu.Lock()
	name := l.rec.Name
	cause := fmt.Errorf("layer %q %s: %w", name, what, errdefs.ErrAborted)
	pins := make([]*pin, 0, len(l.pins))
	for p := range l.pins {
		if p != but {
			p.end(cause)
			pins = append(pins, p)
		}
	}
	s.mu.Unlock()
	ctx, stop := context.WithTimeout(ctx, streamGrace)
	defer stop()
	for _, p := range pins {
		select {
		case <-p.done:
		case <-ctx.Done():
			return fmt.Errorf("layer %q is still being read or written: %w", name, errdefs.ErrUnavailable)
		}
	}
	return nil
}
