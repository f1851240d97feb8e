package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"strata/backend/store/records"

	"github.com/containerd/errdefs"
)

// rereadBad looks whether somebody has mended bad records, or removed them, since they were read.
func (s *Store) rereadBad(ctx context.Context) error {
	s.mending.Lock()
	defer s.mending.Unlock()
	for _, b := range s.badRecords() {
		rec, now := s.records.Reread(b.File, b.ID)
		switch {
		case now == nil:
			if err := s.takeBack(ctx, b, rec); err != nil {
				return err
			}
		case errors.Is(now.Err, fs.ErrNotExist):
			s.giveUp(b)
		}
	}
	return nil
}

// giveUp forgets a record that is not there any more.
func (s *Store) giveUp(b *badRecord) {
	s.mu.Lock()
	delete(s.bad, b.ID)
	leaving := b.letGo()
	s.mu.Unlock()
	s.deleter.add(leaving...)
}

// recordOnDisk compares a layer's record with what the store has known since it read or wrote it. Repair writes a damaged one anew: that
// needs no guess as long as the store is open.
func (c *checker) recordOnDisk(l *layer) error {
	s := c.store
	if s.cfg.ReadOnly { // it has just read it
		return nil
	}
	if c.Repair {
		s.mending.Lock()
		defer s.mending.Unlock()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !s.isReady(l) {
		return nil
	}
	rec := s.snapshot(l)
	file := records.FileOf(rec)
	_, bad := s.records.Reread(file, rec.ID)
	switch {
	case bad == nil:
		return nil
	case !damages(bad.Err):
		return bad.Err
	}
	repaired := ""
	if c.Repair {
		kept, err := s.writeAnew(file, rec)
		if err != nil {
			return fmt.Errorf("mend record %s: %w", file, err)
		}
		if repaired = "written anew"; kept != "" {
			repaired += "; what was there is in " + kept
		}
	}
	c.report(FindingBadRecord, rec.Name, bad.Err.Error()+"; the layer works until Strata ends, and --repair, before that, writes its record anew", repaired)
	return nil
}

// damages reports whether the failure to read a record speaks of the record, and not of this process, as a want of descriptors does.
func damages(err error) bool {
	return errdefs.IsDataLoss(err) || errdefs.IsFailedPrecondition(err) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EIO)
}

// writeAnew writes a damaged record, and says where in damaged/ is what was in its place, "" if nothing was. It wants Store.mending.
func (s *Store) writeAnew(file string, rec record) (kept string, err error) {
	switch fi, err := os.Lstat(s.records.Path(file)); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return "", err
	case fi.IsDir(): // it has no second name, and no file can replace it
		kept, err = s.setAside(layersDir, file, os.Rename)
		if err != nil {
			return "", err
		}
	default:
		kept, err = s.setAside(layersDir, file, os.Link)
		if err != nil {
			return "", err
		}
	}
	if err := records.WriteFile(s.records.Path(file), rec, s.sync.record()); err != nil {
		return "", err
	}
	return kept, s.sync.names()
}
