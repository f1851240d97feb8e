package store

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/containerd/errdefs"

	"strata/backend"
	"strata/backend/internal/failpoint"
)

// layer is a layer in memory.
//
// Two locks guard it. mu serialises the operations that change the layer or its mounts; it may be
// held across backend calls, but never across a stream. Store.mu guards the fields below it and
// is held for memory accesses only. Where both are taken, mu comes first; of two layers' mu the
// child's comes first. The activation has a lock of its own, which may be taken under mu.
type layer struct {
	mu    sync.Mutex
	count atomic.Int32 // Mounts without Unmount; changed under mu

	// fresh says that the layer was made empty by this process and never mounted writable: only then
	// is a tar all that it holds. Guarded by mu.
	fresh bool
	// settled says that the content is durable, and that nobody was told since how to mount it. Guarded by mu.
	settled bool

	act activation

	link bool  // another name of parent, without data; fixed
	peer *peer // the additional store it lies in, nil for our own; fixed

	parent   *layer // changed under mu, too, and only while the layer is detached
	rec      record // ID, Created and Label are fixed; Name and Parent are changed under mu, too
	children int
	gone     bool // removed, or about to be: nothing new may start
	left     bool // removed and without children: the deleter has it
	pins     map[*pin]bool
}

// pin is a stream that reads or fills a layer.
type pin struct {
	cancel context.CancelCauseFunc
	done   chan struct{}
}

// newID returns 80 random bits in base 32: no counter has to survive a crash for an ID never to
// be used twice.
func newID() string {
	b := make([]byte, 10)
	_, _ = rand.Read(b) // documented never to fail
	return strings.ToLower(base32.StdEncoding.EncodeToString(b))
}

// checkName refuses names that no client can mean: 1 to 255 bytes of printable UTF-8.
func checkName(name string) error {
	ok := name != "" && len(name) <= 255 && utf8.ValidString(name)
	for _, r := range name {
		ok = ok && unicode.IsPrint(r)
	}
	if !ok {
		return fmt.Errorf("layer name %.64q: %w: want 1 to 255 bytes of printable UTF-8", name, errdefs.ErrInvalidArgument)
	}
	return nil
}

// lookup returns a layer that is neither removed nor being made. ErrNotFound.
func (s *Store) lookup(name string) (*layer, error) {
	s.mu.RLock()
	l := s.find(name)
	s.mu.RUnlock()
	if l == nil && s.reloadPeers() {
		s.mu.RLock()
		l = s.find(name)
		s.mu.RUnlock()
	}
	if l == nil {
		return nil, fmt.Errorf("layer %q: %w", name, errdefs.ErrNotFound)
	}
	return l, nil
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
	if l == nil || l.gone || l.rec.State == StateCreating || l.rec.Name != name { // about to be called so
		return nil
	}
	return l
}

// usable returns an error unless the layer's content is complete. It wants s.mu.
func (l *layer) usable() error {
	switch {
	case l.gone:
		return fmt.Errorf("layer %q: %w", l.rec.Name, errdefs.ErrNotFound)
	case l.rec.State != StateReady:
		return fmt.Errorf("layer %q is %s, it can only be removed: %w", l.rec.Name, l.rec.State, errdefs.ErrFailedPrecondition)
	case l.rec.Parent != "" && l.parent == nil:
		return fmt.Errorf("layer %q: its parent %s is missing, see strata check: %w", l.rec.Name, l.rec.Parent, errdefs.ErrDataLoss)
	}
	return nil
}

// stillUsable returns the record of a layer that may have been removed, or given another name, while its lock was waited for.
func (s *Store) stillUsable(l *layer) (record, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return l.rec, l.usable()
}

// ready looks a usable layer up.
func (s *Store) ready(name string) (*layer, error) {
	l, err := s.lookup(name)
	if err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return l, l.usable()
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
	if err := s.rewrite(l, s.recordSyncer(), change); err != nil {
		return err
	}
	return s.syncStep()
}

// rewrite is update, but that where no journal keeps names in order a power cut may undo it until the next call of syncStep. A
// draft's record it may tear, too. sync makes the new text durable.
func (s *Store) rewrite(l *layer, sync syncer, change func(*record)) error {
	old := s.snapshot(l)
	rec := old
	change(&rec)
	path := s.path(layersDir, rec.ID)
	if err := replaceRecord(path, rec, sync); err != nil {
		if old.Draft {
			return errors.Join(err, writeFile(path+newSuffix, old, nil))
		}
		if rerr := os.Remove(path + newSuffix); !errors.Is(rerr, os.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
		return err
	}
	s.mu.Lock()
	l.rec = rec
	s.mu.Unlock()
	return nil
}

// recordName returns the name of a ready layer's record.
func recordName(path string, draft bool) string {
	if draft {
		return path + newSuffix
	}
	return path
}

// replaceRecord replaces a layer's record. The new one counts as soon as it has the name with newSuffix: the sync that makes its
// text durable does the same for that name, in a journal, so that the other needs none.
func replaceRecord(path string, rec record, sync syncer) error {
	if err := writeFile(path+newSuffix, rec, nil); err != nil || rec.Draft {
		return err
	}
	if sync != nil {
		if err := sync(path + newSuffix); err != nil {
			return err
		}
	}
	if err := failpoint.Hit("store.record.synced"); err != nil {
		return err
	}
	return os.Rename(path+newSuffix, path)
}

// pin keeps the layer from being deleted until release is called. The returned context ends when
// the layer is removed.
func (s *Store) pin(ctx context.Context, l *layer) (pinned context.Context, release func(), err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	p := &pin{cancel: cancel, done: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.gone {
		cancel(nil)
		return nil, nil, fmt.Errorf("layer %q: %w", l.rec.Name, errdefs.ErrNotFound)
	}
	if l.pins == nil {
		l.pins = map[*pin]bool{}
	}
	l.pins[p] = true
	return ctx, func() {
		s.mu.Lock()
		delete(l.pins, p)
		s.mu.Unlock()
		close(p.done)
		cancel(nil)
	}, nil
}

// streamGrace is how long Remove waits for a stream that it cancelled, for instance one whose
// client does not read.
const streamGrace = 10 * time.Second

// cancelPins ends all streams on a layer that is gone.
func (s *Store) cancelPins(ctx context.Context, l *layer) error {
	s.mu.RLock()
	pins := make([]*pin, 0, len(l.pins))
	for p := range l.pins {
		pins = append(pins, p)
	}
	name := l.rec.Name
	s.mu.RUnlock()
	cause := fmt.Errorf("layer %q was removed: %w", name, errdefs.ErrAborted)
	for _, p := range pins {
		p.cancel(cause)
	}
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
