package tree

import (
	"errors"
	"os"

	"golang.org/x/sync/errgroup"
)

// SyncDirs makes the entries, owners and attributes of directories durable, not those of what is in
// them. All are synced at once: a journal then needs one trip to the disk, not one for each.
func SyncDirs(dirs ...string) error {
	var group errgroup.Group
	for _, dir := range dirs {
		group.Go(func() error { return syncDir(dir) })
	}
	return group.Wait()
}

func syncDir(dir string) (err error) {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return f.Sync()
}
