package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/containerd/log"

	"strata/backend/internal/mount"
)

// activeDir is where a backend mounts what layers consist of, below Config.MountDir: no ID is like it.
const activeDir = ".active"

// activation says why a layer has to be active: each field is a reason. Whoever has one counts as a child of the layer
// below.
type activation struct {
	mu       sync.Mutex // held while the backend works; a child's before its parent's
	mounted  bool       // by the store
	lent     bool       // a client may have mounted it
	children int        // layers above that are active
	done     bool       // by this process; one before it may have done it, too
}

func (a *activation) needed() bool { return a.mounted || a.lent || a.children > 0 }

// Reasons to come and go.
func mountedNow(a *activation)    { a.mounted = true }
func unmountedNow(a *activation)  { a.mounted = false }
func lentNow(a *activation)       { a.lent = true }
func returnedNow(a *activation)   { a.lent = false }
func childActive(a *activation)   { a.children++ }
func childInactive(a *activation) { a.children-- }
func none(a *activation)          { a.mounted, a.lent, a.children = false, false, 0 }

// makeActiveDir makes the place where a backend may mount things, if it does.
func (s *Store) makeActiveDir() error {
	if s.able.activator == nil {
		return nil
	}
	if err := os.Mkdir(s.activePath(), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

func (s *Store) activePath() string { return filepath.Join(s.cfg.MountDir, activeDir) }

// activate makes sure that a layer and all below it are active, and notes the reason. After an error nothing has changed.
func (s *Store) activate(ctx context.Context, l *layer, reason func(*activation)) error {
	if s.able.activator == nil {
		return nil
	}
	a := &l.act
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.done {
		if err := s.activateChain(ctx, l); err != nil {
			return err
		}
		a.done = true
	}
	reason(a)
	return nil
}

// activateChain activates what is below a layer, and then the layer. It wants l.act.mu.
func (s *Store) activateChain(ctx context.Context, l *layer) error {
	counted := l.act.needed() // by an earlier process
	below := s.parentOf(l)
	if below != nil {
		reason := childActive
		if counted {
			reason = func(*activation) {}
		}
		if err := s.activate(ctx, below, reason); err != nil {
			return err
		}
	}
	if l.link {
		return nil
	}
	err := s.able.activator.Activate(ctx, s.describe(l))
	if err != nil {
		err = s.layerError("activate", l, err)
		if below != nil && !counted {
			err = errors.Join(err, s.deactivate(context.WithoutCancel(ctx), below, childInactive))
		}
	}
	return err
}

// deactivate takes a reason away, and with the last one deactivates the layer, and those below it that have no other.
func (s *Store) deactivate(ctx context.Context, l *layer, reason func(*activation)) error {
	if s.able.activator == nil {
		return nil
	}
	a := &l.act
	a.mu.Lock()
	defer a.mu.Unlock()
	needed, mounted, lent, children := a.needed(), a.mounted, a.lent, a.children
	reason(a)
	if !needed || a.needed() {
		return nil
	}
	if !l.link {
		if err := s.able.activator.Deactivate(ctx, s.describe(l)); err != nil {
			a.mounted, a.lent, a.children = mounted, lent, children
			return s.layerError("deactivate", l, err)
		}
	}
	a.done = false
	if below := s.parentOf(l); below != nil {
		return s.deactivate(ctx, below, childInactive)
	}
	return nil
}

// recall notes, when the store is opened, what an earlier process may have left active.
func (s *Store) recall(l *layer) {
	for _, reason := range []struct {
		is  bool
		now func(*activation)
	}{
		{l.count.Load() > 0 || l.gone, mountedNow}, {l.rec.Lent, lentNow},
	} {
		if reason.is && s.able.activator != nil {
			s.recallReason(l, reason.now)
		}
	}
}

func (s *Store) recallReason(l *layer, reason func(*activation)) {
	if below := s.parentOf(l); below != nil && !l.act.needed() {
		s.recallReason(below, childActive)
	}
	reason(&l.act)
}

// deactivateRest deactivates what an earlier process was about to use, or had just used, when it died. What is in use all the same
// stays active until the layer is removed.
func (s *Store) deactivateRest(ctx context.Context, mounts []mount.Info) error {
	var rest []*layer
	for _, m := range mounts {
		l := s.byID[filepath.Base(m.Target)]
		if filepath.Dir(m.Target) == s.activePath() && l != nil && !l.act.needed() {
			rest = append(rest, l)
		}
	}
	slices.SortFunc(rest, func(a, b *layer) int { return depth(b) - depth(a) })
	for _, l := range rest {
		if err := s.able.activator.Deactivate(ctx, s.describe(l)); err != nil {
			log.G(ctx).WithError(err).WithField("layer", l.rec.Name).Warn("layer still in use from an earlier run; it stays active until it is removed")
			s.recallReason(l, mountedNow)
		}
	}
	return ctx.Err()
}

// lend makes a layer one that a client may have mounted, until it is committed or removed. It wants l.mu.
func (s *Store) lend(ctx context.Context, l *layer) error {
	if s.able.activator == nil {
		return nil
	}
	if s.cfg.Unseen != nil {
		if err := s.cfg.Unseen(s.activePath()); err != nil {
			return err
		}
	}
	if l.peer == nil && !s.snapshot(l).Lent {
		if err := s.rewrite(l, s.sync.record(), func(r *record) { r.Lent = true }); err != nil {
			return err
		}
	}
	return s.activate(ctx, l, lentNow)
}

// Seen reports whether what is mounted in a directory, which must exist, is seen by others. It tries, with an empty file system. For
// the mount namespace of the machine's first process, where this process perhaps is, it need not.
func Seen(dir string) (bool, error) {
	if mount.InHost() {
		return true, nil
	}
	return mount.Seen(dir)
}
