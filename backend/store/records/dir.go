package records

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"strata/backend/internal/failpoint"
	"strata/backend/internal/tree"
	"strata/backend/regular"
)

// What the name of a file in layers/ says beyond the layer's ID (doc.go). Renaming a file is all it
// takes to change it.
const (
	newSuffix  = ".new"            // the layer is being made, or a draft, or the record is about to replace another
	partSuffix = ".part"           // the layer is being filled
	goneSuffix = ".gone"           // the layer was removed
	tmpSuffix  = regular.Temporary // text that is being written
)

// Dir is the directory layers/ of a store. One call at a time may change what a layer has there; calls for different layers
// may run at the same time.
type Dir struct{ path string }

// In returns the directory at a path, which has to be there before it is used.
func In(path string) Dir { return Dir{path} }

// Path returns the path of a file in the directory.
func (d Dir) Path(file string) string { return filepath.Join(d.path, file) }

// FileOf returns the name of a ready layer's record.
func FileOf(r Record) string {
	if r.Draft {
		return r.ID + newSuffix
	}
	return r.ID
}

// Parse splits the name of a file. The state is "" if the text has it.
func Parse(name string) (id string, state State) {
	return parseName(strings.TrimSuffix(name, tmpSuffix))
}

// Sync makes the names in the directory durable.
func (d Dir) Sync() error { return tree.Sync(d.path) }

// Intend notes that a layer is about to be made, before it is.
func (d Dir) Intend(r Record, sync Syncer) error { return writeText(d.Path(r.ID+newSuffix), r, sync) }

// Publish notes that an intended layer is ready. The record of a draft keeps the name that it has.
func (d Dir) Publish(r Record, sync Syncer) error {
	path := d.Path(r.ID)
	if err := writeText(path+newSuffix, r, sync); err != nil || r.Draft {
		return err
	}
	return os.Rename(path+newSuffix, path)
}

// Replace replaces a record, or leaves the old one. The new one counts as soon as it has the name with newSuffix: the sync
// that makes its text durable does the same for that name, in a journal, so that the other needs none.
func (d Dir) Replace(old, r Record, sync Syncer) error {
	path := d.Path(r.ID)
	err := replace(path, r, sync)
	switch {
	case err == nil:
		return nil
	case old.Draft:
		return errors.Join(err, WriteFile(path+newSuffix, old, nil))
	}
	if rerr := os.Remove(path + newSuffix); !errors.Is(rerr, os.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	return err
}

func replace(path string, r Record, sync Syncer) error {
	if err := WriteFile(path+newSuffix, r, nil); err != nil || r.Draft {
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

// Fill notes that a ready layer is about to be filled from a tar.
func (d Dir) Fill(r Record) error { return os.Rename(d.Path(FileOf(r)), d.Path(r.ID+partSuffix)) }

// Filled notes that filling has ended, and that the layer is what Fill was given.
func (d Dir) Filled(r Record) error { return os.Rename(d.Path(r.ID+partSuffix), d.Path(FileOf(r))) }

// Replaced does away with what Fill has noted, after Replace: the new record counts already.
func (d Dir) Replaced(id string) error { return os.Remove(d.Path(id + partSuffix)) }

// Retire notes that a layer is removed, or that its making has failed. It may be repeated.
func (d Dir) Retire(id string, is State, sync Syncer) error {
	path := d.Path(id)
	if is == StateApplying {
		// ID.part says as much, unless a record is left that was to follow it. Where the disk is full, ZFS has no room for a rename.
		return absent(os.Remove(path + newSuffix))
	}
	for _, from := range []string{path + newSuffix, path} { // it may have no record yet, and two after a failure
		err := absent(os.Rename(from, path+goneSuffix))
		if err != nil && from != path {
			err = tear(from, sync)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Drop removes the record of a layer that no other one needs, where Retire has no room. A crash before the data is deleted leaves data that
// no record names.
func (d Dir) Drop(id string) error {
	return errors.Join(absent(os.Remove(d.Path(id+newSuffix))), absent(os.Remove(d.Path(id))))
}

// tear empties ID.new, which then speaks of a layer whose making has not ended. Where the disk is full, ZFS can do that, and not rename it.
func tear(path string, sync Syncer) error {
	if err := os.Truncate(path, 0); err != nil || sync == nil {
		return err
	}
	return sync(path)
}

// Forget removes all that a layer has in the directory.
func (d Dir) Forget(id string) error {
	for _, suffix := range []string{partSuffix, newSuffix, "", goneSuffix} {
		if err := absent(os.Remove(d.Path(id + suffix))); err != nil {
			return err
		}
	}
	return nil
}

// absent returns nil for a file that is not there.
func absent(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// parseName splits the name of a record. The state is "" if the text has it.
func parseName(name string) (id string, state State) {
	if id, ok := strings.CutSuffix(name, newSuffix); ok {
		return id, StateCreating
	}
	if id, ok := strings.CutSuffix(name, partSuffix); ok {
		return id, StateApplying
	}
	if id, ok := strings.CutSuffix(name, goneSuffix); ok {
		return id, StateRemoving
	}
	return name, ""
}
