package backendtest

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
)

// Keep applies steps and then gives path and the directory that it is in the times that they had before. What was not there
// keeps the times that it gets.
func Keep(name string, steps ...Step) Step {
	return func(root string) error {
		var back []Step
		for _, p := range []string{name, path.Dir(name)} { // the directory's last
			fi, err := os.Lstat(filepath.Join(root, p))
			if err == nil {
				back = append(back, SetTime(p, fi.ModTime()))
			}
		}
		if err := Steps(steps...)(root); err != nil {
			return err
		}
		for _, s := range back {
			if err := s(root); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		return nil
	}
}

// Overwrite writes into an existing file without making it shorter first.
func Overwrite(path string, at int64, content []byte) Step {
	return func(root string) error {
		f, err := os.OpenFile(filepath.Join(root, path), os.O_WRONLY, 0)
		if err != nil {
			return fmt.Errorf("overwrite: %w", err)
		}
		_, err = f.WriteAt(content, at)
		return errors.Join(err, f.Close())
	}
}

// Truncate cuts a file off, or adds a hole.
func Truncate(path string, size int64) Step {
	return func(root string) error { return os.Truncate(filepath.Join(root, path), size) }
}

// WriteMapped writes into an existing file by way of the memory that it is mapped to.
func WriteMapped(path string, at int, content []byte) Step {
	return func(root string) error { return writeMapped(filepath.Join(root, path), at, content) }
}

// PunchHole makes length bytes of a file a hole. Its size stays. A file system that cannot gets zeros.
func PunchHole(path string, at, length int64) Step {
	return func(root string) error {
		err := punchHole(filepath.Join(root, path), at, length)
		if errors.Is(err, syscall.EOPNOTSUPP) {
			return Overwrite(path, at, make([]byte, length))(root)
		}
		return err
	}
}

// Move does what mv(1) does to a directory of files: it renames it or, where a directory of a layer below cannot be renamed, makes
// another one and renames what is in it.
func Move(old, path string) Step {
	return func(root string) error {
		err := Rename(old, path)(root)
		if !errors.Is(err, syscall.EXDEV) {
			return err
		}
		entries, err := os.ReadDir(filepath.Join(root, old))
		if err != nil {
			return err
		}
		steps := []Step{Mkdir(path, 0o755)}
		for _, e := range entries {
			steps = append(steps, Rename(filepath.Join(old, e.Name()), filepath.Join(path, e.Name())))
		}
		return Steps(append(steps, Remove(old))...)(root)
	}
}

// Socket makes a socket that nobody listens on.
func Socket(path string, mode os.FileMode) Step {
	return func(root string) error { return makeNode(filepath.Join(root, path), 's', mode, 0, 0) }
}

// Deep makes directories inside each other, with a file of that content in the innermost: paths get longer than the kernel
// takes.
func Deep(name string, levels int, content string) Step {
	return InDeep(name, levels, true, func(d *os.Root) error { return d.WriteFile("file", []byte(content), 0o644) })
}

// InDeep calls f with the innermost directory of a Deep.
func InDeep(name string, levels int, create bool, f func(*os.Root) error) Step {
	return func(root string) (err error) {
		d, err := os.OpenRoot(root)
		if err != nil {
			return err
		}
		for levels > 0 {
			stride := min(levels, 1+16_000/len(name)) // many levels at a time: a Root keeps its path
			levels -= stride
			path := strings.Repeat(name+"/", stride-1) + name
			if create {
				err = d.MkdirAll(path, 0o755)
			}
			var next *os.Root
			if err == nil {
				next, err = d.OpenRoot(path)
			}
			if err = errors.Join(err, d.Close()); err != nil {
				return err
			}
			d = next
		}
		return errors.Join(f(d), d.Close())
	}
}
