package backendtest

import (
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Step changes the tree below root. Steps are values, so that the same one can be applied to a
// mounted layer and to the plain directory it is compared with. Paths are relative to root.
type Step func(root string) error

// Steps applies several steps in order and stops at the first error.
func Steps(steps ...Step) Step {
	return func(root string) error {
		for _, s := range steps {
			if err := s(root); err != nil {
				return err
			}
		}
		return nil
	}
}

// CreateFile makes or replaces the content of a regular file and sets its mode, special bits
// included, whatever the umask is.
func CreateFile(path string, content []byte, mode os.FileMode) Step {
	return func(root string) error {
		p := filepath.Join(root, path)
		if err := os.WriteFile(p, content, 0o600); err != nil {
			return fmt.Errorf("create file: %w", err)
		}
		return Chmod(path, mode)(root)
	}
}

// Append adds content to the end of an existing file.
func Append(path string, content []byte) Step {
	return func(root string) error {
		f, err := os.OpenFile(filepath.Join(root, path), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return fmt.Errorf("append: %w", err)
		}
		_, err = f.Write(content)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return fmt.Errorf("append to %q: %w", path, err)
		}
		return nil
	}
}

// SparseFile makes a file of size bytes that is one hole but for its data, which starts at offset.
func SparseFile(path string, size, offset int64, data []byte) Step {
	return func(root string) error {
		f, err := os.Create(filepath.Join(root, path))
		if err != nil {
			return fmt.Errorf("create sparse file: %w", err)
		}
		_, err = f.WriteAt(data, offset)
		if err == nil {
			err = f.Truncate(size)
		}
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return fmt.Errorf("write sparse file %q: %w", path, err)
		}
		return Chmod(path, 0o644)(root)
	}
}

// Mkdir makes a directory and sets its mode, special bits included.
func Mkdir(path string, mode os.FileMode) Step {
	return func(root string) error {
		if err := os.Mkdir(filepath.Join(root, path), 0o700); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
		return Chmod(path, mode)(root)
	}
}

// MkdirAll makes a directory with mode 0755 and those above it.
func MkdirAll(path string) Step {
	return func(root string) error {
		if err := os.MkdirAll(filepath.Join(root, path), 0o755); err != nil {
			return fmt.Errorf("make directories: %w", err)
		}
		return nil
	}
}

// Symlink makes a symbolic link at path.
func Symlink(target, path string) Step {
	return func(root string) error { return os.Symlink(target, filepath.Join(root, path)) }
}

// Link makes path another name of the file old.
func Link(old, path string) Step {
	return func(root string) error {
		return os.Link(filepath.Join(root, old), filepath.Join(root, path))
	}
}

// Rename moves old to path, which it replaces.
func Rename(old, path string) Step {
	return func(root string) error {
		return os.Rename(filepath.Join(root, old), filepath.Join(root, path))
	}
}

// Remove deletes one file or empty directory, which must exist.
func Remove(path string) Step {
	return func(root string) error { return os.Remove(filepath.Join(root, path)) }
}

// RemoveAll deletes a tree, which must exist.
func RemoveAll(path string) Step {
	return func(root string) error {
		p := filepath.Join(root, path)
		if _, err := os.Lstat(p); err != nil {
			return fmt.Errorf("remove tree: %w", err)
		}
		return os.RemoveAll(p)
	}
}

// Replace deletes a directory with all it holds and makes an empty one in its place: what a union
// file system calls opaque.
func Replace(path string, mode os.FileMode) Step {
	return Steps(RemoveAll(path), Mkdir(path, mode))
}

// Chmod sets the mode of a file or directory.
func Chmod(path string, mode os.FileMode) Step {
	return func(root string) error { return os.Chmod(filepath.Join(root, path), mode) }
}

// Chown sets the owner of path itself, not of what a symbolic link names.
func Chown(path string, uid, gid int) Step {
	return func(root string) error { return os.Lchown(filepath.Join(root, path), uid, gid) }
}

// SetTime sets the modification time of path itself, to the nanosecond.
func SetTime(path string, t time.Time) Step {
	return func(root string) error { return setTime(filepath.Join(root, path), t) }
}

// SetXattr sets an extended attribute of path itself.
func SetXattr(path, name, value string) Step {
	return func(root string) error { return setXattr(filepath.Join(root, path), name, value) }
}

// RemoveXattr removes an extended attribute, which must exist.
func RemoveXattr(path, name string) Step {
	return func(root string) error { return removeXattr(filepath.Join(root, path), name) }
}

// Fifo makes a named pipe.
func Fifo(path string, mode os.FileMode) Step {
	return func(root string) error { return makeNode(filepath.Join(root, path), 'p', mode, 0, 0) }
}

// CharDevice makes a character device.
func CharDevice(path string, mode os.FileMode, major, minor uint32) Step {
	return func(root string) error { return makeNode(filepath.Join(root, path), 'c', mode, major, minor) }
}

// BlockDevice makes a block device.
func BlockDevice(path string, mode os.FileMode, major, minor uint32) Step {
	return func(root string) error { return makeNode(filepath.Join(root, path), 'b', mode, major, minor) }
}
