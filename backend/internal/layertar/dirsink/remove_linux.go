package dirsink

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"strata/backend/internal/layertar/openat"
)

// remove deletes what stands at a path, whole trees included. The log gets the data of files that
// this tar put there.
func (a *sink) remove(d *dir, base, path string, is present) error {
	a.tree.last.dir = nil // may have come through a symlink that goes away
	if is != presentDir {
		return a.removeFile(d.fd, base, path)
	}
	if err := a.writers.wait(); err != nil {
		return err
	}
	a.tree.drop(path)
	if _, err := a.removeTree(d, base, true); err != nil {
		return fmt.Errorf("remove %q: %w", path, err)
	}
	return nil
}

func (a *sink) removeFile(at int, base, path string) error {
	key := a.tree.key(path)
	if err := a.rescue(at, base, path, a.tree.made[key]); err != nil {
		return err
	}
	delete(a.tree.made, key)
	if err := unix.Unlinkat(at, base, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove %q: %w", path, err)
	}
	return nil
}

// rescue copies the data of a file that the log refers to into the log.
func (a *sink) rescue(at int, base, path string, m made) error {
	if m.record == 0 {
		return nil
	}
	fd, err := openat.OpenFileAt(at, base)
	if err != nil {
		return fmt.Errorf("save %q: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	if err := errors.Join(a.host.Save(m.record, f), f.Close()); err != nil {
		return fmt.Errorf("save %q: %w", path, err)
	}
	return nil
}
