package cli

import (
	"errors"
	"io/fs"
	"path/filepath"

	bolt "go.etcd.io/bbolt"
)

// buildKitLayers adds the names of BuildKit's layers to known. It reports whether the data root has
// a record of them at all.
//
// Docker's BuildKit keeps it in buildkit/snapshots.db (moby
// daemon/internal/builder-next/adapters/snapshot): a bucket for each snapshot, called as its layer
// or, once committed, with the layer's name under the key "committed".
func buildKitLayers(root string, known map[string]bool) (bool, error) {
	return readBuildKit(root, func(name string, b *bolt.Bucket) {
		known[name] = true
		if layer := b.Get([]byte("committed")); len(layer) > 0 {
			known[string(layer)] = true
		}
	})
}

// buildKitMade lists the layers that BuildKit has made and not removed: their buckets have the key "parent". Others
// stand for layers of images.
func buildKitMade(root string) (made []string, err error) {
	_, err = readBuildKit(root, func(name string, b *bolt.Bucket) {
		if b.Get([]byte("parent")) != nil {
			made = append(made, name)
		}
	})
	return made, err
}

// readBuildKit calls each for every bucket of BuildKit's record, and reports whether there is one.
func readBuildKit(root string, each func(name string, b *bolt.Bucket)) (bool, error) {
	err := readDatabase(filepath.Join(root, "buildkit", "snapshots.db"), func(tx *bolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
			each(string(name), b)
			return nil
		})
	})
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
