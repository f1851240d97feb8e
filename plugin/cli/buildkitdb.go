package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

// buildKitLayers adds the names of BuildKit's layers to known. It reports whether the data root has
// a record of them at all.
//
// Docker's BuildKit keeps it in buildkit/snapshots.db (moby
// daemon/internal/builder-next/adapters/snapshot): a bucket for each snapshot, called as its layer
// or, once committed, with the layer's name under the key "committed".
func buildKitLayers(root string, known map[string]bool) (bool, error) {
	path := filepath.Join(root, "buildkit", "snapshots.db")
	text, err := readQuiet(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = readSnapshots(text, known)
	}
	if err != nil {
		return false, fmt.Errorf("read BuildKit's record of its layers %s: %w", path, err)
	}
	return true, nil
}

// readQuiet reads a database that dockerd has open and locked, at a moment when nobody writes it.
// bbolt never overwrites what its last transaction stands on, so two readings that are equal are a
// consistent state.
func readQuiet(path string) ([]byte, error) {
	last, err := os.ReadFile(path)
	for range 50 {
		if err != nil {
			return nil, err
		}
		time.Sleep(10 * time.Millisecond)
		var text []byte
		if text, err = os.ReadFile(path); err == nil && bytes.Equal(last, text) {
			return text, nil
		}
		last = text
	}
	return nil, fmt.Errorf("it changes all the time, try again when no build runs: %w", errdefs.ErrUnavailable)
}

// readSnapshots reads a copy of the database. bbolt wants a file, and panics over a damaged one.
func readSnapshots(text []byte, known map[string]bool) (err error) {
	f, err := os.CreateTemp("", "strata-snapshots-")
	if err != nil {
		return err
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("damaged: %v: %w", p, errdefs.ErrDataLoss)
		}
		err = errors.Join(err, os.Remove(f.Name()))
	}()
	_, err = f.Write(text)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	db, err := bolt.Open(f.Name(), 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return db.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
			known[string(name)] = true
			if layer := b.Get([]byte("committed")); len(layer) > 0 {
				known[string(layer)] = true
			}
			return nil
		})
	})
}
