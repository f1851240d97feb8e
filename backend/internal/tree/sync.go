package tree

import (
	"errors"
	"os"

	"golang.org/x/sync/errgroup"
)

// Sync makes files durable, and the entries, owners and attributes of directories, not those of what is in
// them. All are synced at once: a journal then needs one trip to the disk, not one for each.
func Sync(paths ...string) error {
	var group errgroup.Group
	for _, path := range paths {
		group.Go(func() error { return sync(path) })
	}
	return group.Wait()
}

func sync(path string) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return f.Sync()
}
