package layertar

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// remove deletes what stands at a path, whole trees included. The log gets the data of files that
// this tar put there.
func (a *applier) remove(d *dir, base, path string, is present) error {
	a.tree.last.dir = nil // may have come through a symlink that goes away
	if is != presentDir {
		return a.removeFile(d.fd, base, path)
	}
	if err := a.writers.wait(); err != nil {
		return err
	}
	a.tree.drop(path)
	a.links.cancelBelow(path)
	if _, err := a.removeTree(d.fd, base, path, true); err != nil {
		return fmt.Errorf("remove %q: %w", path, err)
	}
	return nil
}

func (a *applier) removeFile(at int, base, path string) error {
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
func (a *applier) rescue(at int, base, path string, m made) error {
	if m.file == 0 {
		return nil
	}
	fd, err := openFileAt(at, base)
	if err != nil {
		return fmt.Errorf("save %q: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	var r io.Reader = f
	if list, ok := a.sparse[m.file]; ok {
		parts := make([]io.Reader, len(list))
		for i, s := range list {
			parts[i] = io.NewSectionReader(f, s.offset, s.length)
		}
		r = io.MultiReader(parts...)
		delete(a.sparse, m.file)
		a.segments -= len(list)
	}
	if err := errors.Join(a.o.Log.save(m.file-1, r), f.Close()); err != nil {
		return fmt.Errorf("save %q: %w", path, err)
	}
	return nil
}

// prune deletes everything in a directory that this tar has not put there.
func (a *applier) prune(d *dir) error {
	if err := a.writers.wait(); err != nil {
		return err
	}
	a.tree.last.dir = nil
	if _, err := a.clear(d.fd, d.path, false); err != nil {
		return fmt.Errorf("clear %q: %w", d.path, err)
	}
	return nil
}

// removeTree deletes a directory, or, unless all is set, what in it is not ours, and reports whether
// it is gone. It never crosses a mount point.
func (a *applier) removeTree(at int, base, path string, all bool) (gone bool, err error) {
	fd, err := openDirAt(at, base)
	if err != nil {
		return false, err
	}
	empty, err := a.clear(fd, path, all)
	closeQuietly(fd, -1)
	if err != nil || !empty {
		return false, err
	}
	a.tree.drop(path)
	delete(a.tree.made, a.tree.key(path))
	if err := unix.Unlinkat(at, base, unix.AT_REMOVEDIR); err != nil {
		return false, err
	}
	return true, nil
}

// clear deletes what a directory holds and reports whether the directory is to go too.
func (a *applier) clear(fd int, path string, all bool) (empty bool, err error) {
	again, err := openAt(fd, ".", dirFlags) // with an offset of its own
	if err != nil {
		return false, err
	}
	f := os.NewFile(uintptr(again), path)
	defer func() { err = errors.Join(err, f.Close()) }()
	empty = all || !a.tree.made[a.tree.key(path)].dir
	for {
		list, err := f.ReadDir(1024)
		if errors.Is(err, io.EOF) {
			return empty, nil
		}
		if err != nil {
			return false, err
		}
		for _, entry := range list {
			gone, err := a.clearEntry(fd, entry, path, all)
			if err != nil {
				return false, err
			}
			empty = empty && gone
		}
	}
}

func (a *applier) clearEntry(at int, entry os.DirEntry, parent string, all bool) (gone bool, err error) {
	path := joinName(parent, entry.Name())
	ours, known := a.tree.made[a.tree.key(path)]
	if known && !all && (!ours.dir || ours.fresh) {
		return false, nil
	}
	if entry.IsDir() {
		return a.removeTree(at, entry.Name(), path, all)
	}
	return true, a.removeFile(at, entry.Name(), path)
}
