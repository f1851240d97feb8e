package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	"gotest.tools/v3/assert"
)

// TestBuildKitLayers reads a database while its owner has it open, as dockerd has.
func TestBuildKitLayers(t *testing.T) {
	root := t.TempDir()
	path := filepath.Join(root, "buildkit", "snapshots.db")
	assert.NilError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	db, err := bolt.Open(path, 0o600, nil)
	assert.NilError(t, err)
	put := func(key, value string, names ...string) {
		assert.NilError(t, db.Update(func(tx *bolt.Tx) error {
			for _, name := range names {
				b, err := tx.CreateBucketIfNotExists([]byte(name))
				if err != nil {
					return err
				}
				if err := b.Put([]byte(key), []byte(value)); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	put("parent", "", "active", "committed")
	put("committed", "layer", "name")
	put("iscommitted", "", "layer")
	known := map[string]bool{}
	found, err := buildKitLayers(root, known)
	assert.NilError(t, err)
	assert.Assert(t, found)
	assert.DeepEqual(t, known, set("active committed name layer"))

	// And while it is written to now and then.
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stop.Load() {
			put("parent", "x", "busy")
			time.Sleep(30 * time.Millisecond)
		}
	}()
	for range 5 {
		clear(known)
		found, err := buildKitLayers(root, known)
		assert.NilError(t, err)
		assert.Assert(t, found && known["active"] && known["layer"])
	}
	stop.Store(true)
	<-done
	assert.NilError(t, db.Close())
}

func TestNoBuildKit(t *testing.T) {
	found, err := buildKitLayers(t.TempDir(), nil)
	assert.NilError(t, err)
	assert.Assert(t, !found)
}

// TestDamagedBuildKit must not take a damaged record for an empty one: gc would remove all of its
// layers.
func TestDamagedBuildKit(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	whole := filepath.Join(t.TempDir(), "whole.db")
	db, err := bolt.Open(whole, 0o600, nil)
	assert.NilError(t, err)
	assert.NilError(t, db.Update(func(tx *bolt.Tx) error {
		for n := range 10_000 {
			if _, err := tx.CreateBucket(fmt.Appendf(nil, "snapshot %d", n)); err != nil {
				return err
			}
		}
		return nil
	}))
	var used int64
	assert.NilError(t, db.View(func(tx *bolt.Tx) error {
		used = tx.Size()
		return nil
	}))
	assert.NilError(t, db.Close())
	text, err := os.ReadFile(whole)
	assert.NilError(t, err)
	lastPage := used - int64(os.Getpagesize())/2
	overwrite := func(from int) []byte {
		b := append([]byte(nil), text...)
		for i := from; i < len(b); i++ {
			b[i] = 0xff
		}
		return b
	}
	for name, damaged := range map[string][]byte{
		"empty": {}, "cut off": text[:100], "no meta page": overwrite(0), "no data pages": overwrite(2 * os.Getpagesize()),
		"one meta page": text[:os.Getpagesize()], "two meta pages": text[:2*os.Getpagesize()],
		"cut in a page": text[:20_000], "cut between pages": text[:65_536], "last page cut": text[:lastPage],
		"pages of zeros": append(text[:2*os.Getpagesize():2*os.Getpagesize()], make([]byte, len(text)-2*os.Getpagesize())...),
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			assert.NilError(t, os.Mkdir(filepath.Join(root, "buildkit"), 0o700))
			assert.NilError(t, os.WriteFile(filepath.Join(root, "buildkit", "snapshots.db"), damaged, 0o600))
			_, err := buildKitLayers(root, map[string]bool{})
			assert.ErrorContains(t, err, "snapshots.db")
		})
	}
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "strata-database-*"))
	assert.NilError(t, err)
	assert.Equal(t, len(left), 0)
}
