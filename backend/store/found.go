package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"strata/backend/internal/failpoint"
	"strata/backend/internal/mount"
	"strata/backend/internal/tree"
	"strata/backend/store/records"
)

// foundation is what a store is made in the place of.
type foundation struct{ old *Meta } // nil: there was no store

// loadMeta finds out what the store promises. founding is not nil if the store has to be made first, once its backend
// has opened (found).
func (s *Store) loadMeta() (founding *foundation, err error) {
	s.meta, err = readMeta(s.cfg.Root)
	if errors.Is(err, os.ErrNotExist) && !s.cfg.ReadOnly {
		return s.newStore()
	}
	if err == nil {
		err = s.meta.checkFormat()
	}
	if err != nil {
		return nil, err
	}
	otherBackend := s.cfg.Backend != "" && s.cfg.Backend != s.meta.Backend
	otherPromise := s.cfg.ExactDiffsSet && s.cfg.ExactDiffs != s.meta.ExactDiffs
	if !otherBackend && !otherPromise {
		return nil, nil //nolint:nilnil // nil is a store that is there
	}
	return s.anew()
}

// anew says what a store promises that is made in the place of one which was made with other settings, if that can be.
func (s *Store) anew() (*foundation, error) {
	old, next := s.meta, s.promise(cmp.Or(s.cfg.Backend, s.meta.Backend))
	holds, err := s.holds()
	if err != nil {
		return nil, err
	}
	if holds != "" || s.cfg.ReadOnly {
		was, is := fmt.Sprintf("exact-diffs=%t", old.ExactDiffs), fmt.Sprintf("exact-diffs=%t", next.ExactDiffs)
		if old.Backend != next.Backend {
			was, is = "backend="+old.Backend, "backend="+next.Backend
		}
		return nil, fmt.Errorf("the store was made with %s, not with %s%s: use %s, or another root: %w", was, is, holds, was, errdefs.ErrFailedPrecondition)
	}
	s.meta = next
	return &foundation{old: &old}, nil
}

// newStore says what a new store promises. A directory without strata.json that has records is no new store.
func (s *Store) newStore() (*foundation, error) {
	n, err := s.records.Count()
	if err != nil {
		return nil, err
	}
	if n > 0 {
		return nil, fmt.Errorf("%s is missing but there are records of %d layers: restore the file from a backup: %w", metaFile, n, errdefs.ErrDataLoss)
	}
	if s.cfg.Backend == "" {
		return nil, fmt.Errorf("a new store needs a backend: %w", errdefs.ErrInvalidArgument)
	}
	s.meta = s.promise(s.cfg.Backend)
	return &foundation{}, nil
}

// promise is what a store promises that is made now.
func (s *Store) promise(backendName string) Meta {
	return Meta{Format: format, UUID: newID(), Backend: backendName, ExactDiffs: s.cfg.ExactDiffs, Created: time.Now().UTC()}
}

// holds says what keeps the store from being made anew, in words that follow others, or "" if nothing does.
func (s *Store) holds() (string, error) {
	switch n, err := s.records.Count(); {
	case err != nil:
		return "", err
	case n == 1:
		return ", and holds 1 layer", nil
	case n > 1:
		return fmt.Sprintf(", and holds %d layers", n), nil
	}
	dir := home(s.cfg.Root, s.meta.Backend)
	vacant, err := vacant(dir)
	if err != nil || vacant {
		return "", err
	}
	return ", and " + dir + " is not empty although no record names what is there (strata gc)", nil
}

// recordsThere refuses a store that has lost the directory of its records: without them all data would be nobody's.
func (s *Store) recordsThere() error {
	if _, err := os.Lstat(s.path(metaFile)); err != nil {
		return nil //nolint:nilerr // it is new, or cannot be read, which loadMeta says
	}
	_, err := os.Stat(s.path(layersDir))
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s is missing, and %s is there: mount the disk that it lies on, or restore it from a backup; for a store without layers, make it: %w",
			s.path(layersDir), metaFile, errdefs.ErrDataLoss)
	}
	return err
}

// dataThere refuses a store whose layers are recorded and whose backend's home is missing or empty: a disk is not mounted, most
// likely, and to go on would make a second home beside the first.
func (s *Store) dataThere(home string) error {
	empty, err := emptyDir(home)
	if errors.Is(err, os.ErrNotExist) {
		empty, err = true, nil
	}
	if !empty || err != nil {
		return err
	}
	n, err := s.records.Ready()
	if n == 0 || err != nil {
		return err
	}
	return fmt.Errorf("%s is missing or empty, and there are records of %d layers: mount the disk that it lies on, or restore it from a backup; to give the layers up, remove %s: %w",
		home, n, s.cfg.Root, errdefs.ErrDataLoss)
}

// vacant reports whether a backend's home has no layers in it: nothing is mounted there, and its directories are empty. The
// files are the backend's notes.
func vacant(home string) (bool, error) {
	mounts, err := mount.Below(home)
	if err != nil {
		return false, err
	}
	for _, m := range mounts {
		if m.Target != home {
			return false, nil
		}
	}
	entries, err := os.ReadDir(home)
	if errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if empty, err := emptyDir(filepath.Join(home, e.Name())); err != nil || !empty {
			return false, err
		}
	}
	return err == nil, err
}

func emptyDir(path string) (bool, error) {
	d, err := os.Open(path)
	if err != nil {
		return false, err
	}
	_, err = d.ReadDir(1)
	if errors.Is(err, io.EOF) {
		return true, d.Close()
	}
	return false, errors.Join(err, d.Close())
}

// found makes the store, or makes it anew, by its strata.json: before that is renamed there is no store, or the old one.
func (s *Store) found(ctx context.Context, f foundation) error {
	if err := failpoint.Hit("store.found.opened"); err != nil {
		return err
	}
	if err := records.WriteFile(s.path(metaFile), s.meta, records.SyncFile); err != nil {
		return err
	}
	if err := tree.Sync(s.path(), filepath.Dir(s.cfg.Root)); err != nil {
		return err
	}
	if err := failpoint.Hit("store.found.written"); err != nil || f.old == nil {
		return err
	}
	log.G(ctx).WithFields(log.Fields{
		"root": s.cfg.Root, "backend": s.meta.Backend, "exact-diffs": s.meta.ExactDiffs, "uuid": s.meta.UUID,
		"old-backend": f.old.Backend, "old-exact-diffs": f.old.ExactDiffs, "old-uuid": f.old.UUID,
	}).Warn("made the store anew: it held no layers and was made with other settings")
	if f.old.Backend == s.meta.Backend {
		return nil
	}
	removeVacant(home(s.cfg.Root, f.old.Backend))
	return failpoint.Hit("store.found.cleared")
}

// removeVacant removes a home with empty directories at most. What else is in it stays, and the home with it, which is no
// harm: rmdir(2) takes neither files nor mount points.
func removeVacant(home string) {
	entries, _ := os.ReadDir(home) // see above
	for _, e := range entries {
		_ = rmdir(filepath.Join(home, e.Name())) // see above
	}
	_ = rmdir(home) // see above
}
