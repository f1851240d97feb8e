package cli

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"

	"strata/backend/regular"
)

// maxDatabase bounds the databases that are read, bytes. Those of containerd and BuildKit have some MB.
const maxDatabase = 4 << 30

// readDatabase reads a database that another process has open and locked, from a copy without a name: bbolt wants a file. Over a
// damaged one bbolt panics, or touches memory that is not there.
func readDatabase(path string, view func(tx *bolt.Tx) error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("damaged: %v: %w", p, errdefs.ErrDataLoss)
		}
		if err != nil {
			err = fmt.Errorf("read database %s: %w", path, err)
		}
	}()
	f, err := os.CreateTemp("", "strata-database-")
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // bbolt closes it, too, unless it panics
	if err := os.Remove(f.Name()); err != nil {
		return err
	}
	size, err := copyQuiet(f, path)
	if err != nil {
		return err
	}
	if size == 0 { // bbolt would write to it
		return cutOff(size, 1)
	}
	db, err := bolt.Open(path, 0, &bolt.Options{ReadOnly: true, OpenFile: func(string, int, os.FileMode) (*os.File, error) { return f, nil }})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return db.View(func(tx *bolt.Tx) error {
		if tx.Size() > size { // what is missing of a page that ends behind the file would look like zeros
			return cutOff(size, tx.Size())
		}
		return view(tx)
	})
}

func cutOff(size, want int64) error {
	return fmt.Errorf("damaged: it has %d bytes of at least %d: %w", size, want, errdefs.ErrDataLoss)
}

// copyQuiet copies a database to f as it is at a moment when nobody writes it, and returns its size. bbolt never overwrites what
// its last transaction stands on, so two readings that are equal are a consistent state.
func copyQuiet(f *os.File, path string) (size int64, err error) {
	var last [sha256.Size]byte
	for first, tries := true, 0; tries < 50; first, tries = false, tries+1 {
		var sum [sha256.Size]byte
		if sum, size, err = copyOnce(f, path); err != nil {
			return 0, err
		}
		if !first && sum == last {
			return size, nil
		}
		last = sum
		time.Sleep(10 * time.Millisecond)
	}
	return 0, fmt.Errorf("it changes all the time, try again when less happens: %w", errdefs.ErrUnavailable)
}

// copyOnce makes f hold what the file at path holds.
func copyOnce(f *os.File, path string) (sum [sha256.Size]byte, size int64, err error) {
	from, err := regular.Open(path, maxDatabase)
	if err != nil {
		return sum, 0, err
	}
	defer from.Close()
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return sum, 0, err
	}
	h := sha256.New()
	if size, err = io.Copy(io.MultiWriter(f, h), io.LimitReader(from, maxDatabase)); err != nil {
		return sum, 0, err
	}
	h.Sum(sum[:0])
	return sum, size, f.Truncate(size)
}
