package store

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
)

// peer is an additional store: sealed layers that may be mounted, read and built upon, and are
// never modified. Its maps are guarded by the Store.mu of the store that uses it.
type peer struct {
	root   string
	read   time.Time // change time of layers/ when it was last read
	byName map[string]*layer
	byID   map[string]*layer
}

func openPeer(root, backendName string) (*peer, error) {
	var m meta
	if err := readFile(filepath.Join(root, metaFile), &m); err != nil {
		return nil, fmt.Errorf("additional store %s: %w", root, err)
	}
	if m.Format != format || m.Backend != backendName {
		return nil, fmt.Errorf("additional store %s has format %d and backend %s, want format %d and backend %s: %w",
			root, m.Format, m.Backend, format, backendName, errdefs.ErrFailedPrecondition)
	}
	p := &peer{root: root, byName: map[string]*layer{}, byID: map[string]*layer{}}
	if _, err := p.reload(); err != nil {
		return nil, fmt.Errorf("additional store %s: %w", root, err)
	}
	return p, nil
}

// reload adds layers that were sealed since it last looked. Layers that vanished stay known: their
// use fails with the backend's error.
func (p *peer) reload() (changed bool, err error) {
	dir := filepath.Join(p.root, layersDir)
	fi, err := os.Stat(dir)
	if err != nil || fi.ModTime().Equal(p.read) {
		return false, err
	}
	recs, _, err := readRecords(dir, false) // unreadable records are their owner's business
	if err != nil {
		return false, err
	}
	p.read = fi.ModTime()
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
	return true, nil
}

// reloadPeers looks for new layers in the additional stores, and reports whether there may be any.
func (s *Store) reloadPeers() (changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.peers {
		c, err := p.reload()
		if err != nil {
			log.L.WithError(err).WithField("store", p.root).Warn("look for new layers in an additional store")
		}
		changed = changed || c
	}
	return changed
}
