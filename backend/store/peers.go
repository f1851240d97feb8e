package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"strata/backend/store/records"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
)

// peer is an additional store: sealed layers that may be mounted, read and built upon, and are
// never modified. It may lie on a file system that hangs, so it is only read without Store.mu.
type peer struct {
	root string
	turn chan struct{} // has room for one: whoever puts something in may read the store
	read time.Time     // change time of layers/ when it was last read; guarded by turn

	byName map[string]*layer // guarded by the Store.mu of the store that uses it, and byID as well
	byID   map[string]*layer
}

// CheckStores refuses directories that no store of the backend can have as additional ones: ErrNotFound for one that holds
// no store, ErrFailedPrecondition for one of another backend or format. It reads the description alone, and waits as long as
// the file system of a store takes to answer.
func CheckStores(roots []string, backendName string) error {
	var errs []error
	for _, root := range roots {
		errs = append(errs, checkPeer(root, backendName))
	}
	return errors.Join(errs...)
}

// checkPeer reads the description of an additional store.
func checkPeer(root, backendName string) error {
	m, err := readMeta(root)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("additional store %s: there is no store in this directory: %w", root, errdefs.ErrNotFound)
	case err != nil:
		return fmt.Errorf("additional store %s: %w", root, err)
	case m.Format != format || m.Backend != backendName:
		return fmt.Errorf("additional store %s has format %d and backend %s, want format %d and backend %s: %w",
			root, m.Format, m.Backend, format, backendName, errdefs.ErrFailedPrecondition)
	}
	return nil
}

func openPeer(root, backendName string) (*peer, error) {
	if err := checkPeer(root, backendName); err != nil {
		return nil, err
	}
	p := &peer{root: root, turn: make(chan struct{}, 1), byName: map[string]*layer{}, byID: map[string]*layer{}}
	recs, _, err := p.look()
	if err != nil {
		return nil, fmt.Errorf("additional store %s: %w", root, err)
	}
	p.add(recs)
	return p, nil
}

// look reads the records if layers/ has changed since it last looked. It wants the turn.
func (p *peer) look() (recs []record, changed bool, err error) {
	dir := filepath.Join(p.root, layersDir)
	fi, err := os.Stat(dir)
	if err != nil || fi.ModTime().Equal(p.read) {
		return nil, false, err
	}
	r, err := records.In(dir).ReadAll(false) // unreadable records are their owner's business
	if err != nil {
		return nil, false, err
	}
	p.read = fi.ModTime()
	return r.Records, true, nil
}

// add adds layers that were sealed since the last look. Layers that vanished stay known: their use fails with
// the backend's error. It wants Store.mu.
func (p *peer) add(recs []record) {
	for _, r := range recs {
		if r.State == StateReady && r.Sealed && p.byID[r.ID] == nil {
			p.byID[r.ID] = &layer{rec: r, link: r.Link, peer: p}
		}
	}
	for _, l := range p.byID {
		if l.parent == nil {
			l.parent = p.byID[l.rec.Parent]
		}
		p.byName[l.rec.Name] = l
	}
	cutCircles(p.byID)
}

// peerPatience is how long an additional store may take to answer.
const peerPatience = 10 * time.Second

// reloadPeers looks for new layers in the additional stores, and reports whether there may be any. An additional store that
// cannot be read is logged and passed over. ErrUnavailable if one does not answer.
func (s *Store) reloadPeers(ctx context.Context) (changed bool, err error) {
	if len(s.peers) == 0 {
		return false, nil
	}
	ctx, stop := context.WithTimeoutCause(ctx, peerPatience, fmt.Errorf("no answer within %v", peerPatience))
	defer stop()
	var errs []error
	for _, p := range s.peers {
		c, err := s.reloadPeer(ctx, p)
		changed = changed || c
		if err != nil {
			errs = append(errs, fmt.Errorf("look for new layers in additional store %s: %w: %w", p.root, err, errdefs.ErrUnavailable))
		}
	}
	return changed, errors.Join(errs...)
}

// reloadPeer reads an additional store. When ctx ends first the reading goes on, with nobody waiting: there is at
// most one of it.
func (s *Store) reloadPeer(ctx context.Context, p *peer) (changed bool, err error) {
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
	done := make(chan bool, 1)
	go func() {
		recs, changed, err := p.look()
		if err != nil {
			log.G(ctx).WithError(err).WithField("store", p.root).Warn("cannot look for new layers in an additional store")
		}
		s.mu.Lock()
		p.add(recs)
		s.mu.Unlock()
		<-p.turn
		done <- changed
	}()
	select {
	case changed = <-done:
		return changed, nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}
