package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"strata/backend/store/records"

	"github.com/containerd/errdefs"
)

// Meta is what a store promised when it was made: the content of strata.json.
type Meta struct {
	Format     int       `json:"format"`
	UUID       string    `json:"uuid"`
	Backend    string    `json:"backend"`
	ExactDiffs bool      `json:"exactDiffs"`
	Created    time.Time `json:"created"`
}

const metaFile = "strata.json"

// format is the version of the on-disk format that this code writes (doc.go).
const format = 1

// Inspect returns what the store in root promised when it was made, and changes nothing. It takes
// no lock: another process may have the store open. ErrNotFound if there is no store, ErrDataLoss
// if the file was edited or is damaged, ErrFailedPrecondition for a format that this version does
// not know.
func Inspect(root string) (Meta, error) {
	m, err := readMeta(root)
	if errors.Is(err, os.ErrNotExist) {
		return Meta{}, fmt.Errorf("there is no store in %s: %w", root, errdefs.ErrNotFound)
	}
	if err == nil {
		err = m.checkFormat()
	}
	if err != nil {
		return Meta{}, fmt.Errorf("inspect store %s: %w", root, err)
	}
	return m, nil
}

// readMeta reads strata.json, of any format. os.ErrNotExist if there is none.
func readMeta(root string) (m Meta, err error) {
	err = records.ReadFile(filepath.Join(root, metaFile), &m)
	if errdefs.IsDataLoss(err) {
		err = fmt.Errorf("%w: %s was edited or is damaged: %s", err, metaFile, cureMeta(root))
	}
	return m, err
}

func (m Meta) checkFormat() error {
	if m.Format != format {
		return fmt.Errorf("format %d, this version of strata knows format %d: %w", m.Format, format, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// cureMeta says what to do about a strata.json that cannot be read.
func cureMeta(root string) string {
	if n, err := records.In(filepath.Join(root, layersDir)).Count(); err == nil && n == 0 {
		return "the store holds no layers: remove the file, and the store is made anew"
	}
	return "undo the edit, or restore the file from a backup; what it says cannot be changed while the store holds layers"
}
