package unpack

import (
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"strata/backend"
)

// Limits on hard links that come before their target, which are kept until the end of the tar.
const (
	maxPending      = 1 << 16
	maxPendingBytes = 8 << 20 // of names and attributes
)

// links are hard links whose target has not come yet.
type links struct {
	pending map[string]*backend.Entry // by path without symlinks
	order   []string
	bytes   int
}

// add remembers a link, which stands at a path.
func (l *links) add(at string, e *backend.Entry) error {
	l.bytes += len(at) + len(e.Name) + len(e.Target)
	for _, x := range e.Xattrs {
		l.bytes += len(x.Name) + len(x.Value)
	}
	if len(l.order) == maxPending || l.bytes > maxPendingBytes {
		return errTooMany("hard links before their targets", len(l.order))
	}
	if l.pending == nil {
		l.pending = map[string]*backend.Entry{}
	}
	own := *e
	own.Path = at
	l.pending[at] = &own
	l.order = append(l.order, at)
	return nil
}

// makeAll makes the links that are left, each after the link it leads to.
func (l *links) makeAll(s backend.Sink) error {
	for _, at := range l.order {
		var chain []*backend.Entry
		for e, ok := l.pending[at]; ok; e, ok = l.pending[at] {
			chain = append(chain, e)
			delete(l.pending, at)
			at = e.Target
		}
		for _, e := range slices.Backward(chain) {
			if _, _, err := s.Link(e, true); err != nil {
				return fmt.Errorf("unpack %q: %w", e.Name, err)
			}
		}
	}
	return nil
}

// errTooMany bounds what hostile tars make us remember.
func errTooMany(what string, limit int) error {
	return fmt.Errorf("more than %d %s: %w", limit, what, errdefs.ErrInvalidArgument)
}
