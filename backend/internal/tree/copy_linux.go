package tree

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// copiers is how many files are filled at the same time: enough that the disk has something to do
// while one goroutine makes names. Each file in progress holds two descriptors.
const copiers = 4

// Copy makes dst, which must not exist or be an empty directory, a copy of the directory src: content (by
// reflink where the file system can, else keeping holes), hard links, owners, modes, all extended
// attributes, access and modification times, devices, FIFOs and symbolic links. Sockets are left out,
// as they are in a tar. Inode flags (chattr) are not copied. src must not change meanwhile; a mount
// point inside it is an ErrFailedPrecondition. What an unfinished Copy leaves is for RemoveAll.
func Copy(ctx context.Context, src, dst string) error {
	if err := copyTree(ctx, src, dst); err != nil {
		return fmt.Errorf("copy tree: %w", err)
	}
	return nil
}

func copyTree(ctx context.Context, src, dst string) error {
	from, err := Open(src)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := openEmpty(dst)
	if err != nil {
		return err
	}
	defer to.Close()
	files, ctx := errgroup.WithContext(ctx)
	files.SetLimit(copiers)
	c := copier{root: to, files: files, links: map[device]string{}}
	err = c.directory(ctx, from, to, ".")
	// A failed file has cancelled ctx, and is the error that tells more.
	if ferr := files.Wait(); ferr != nil {
		return ferr
	}
	return err
}

// openEmpty makes a directory, or opens one that is empty.
func openEmpty(dir string) (Dir, error) {
	if err := unix.Mkdir(dir, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return Dir{}, &os.PathError{Op: "mkdir", Path: dir, Err: err}
	}
	d, err := Open(dir)
	if err != nil {
		return Dir{}, err
	}
	list, err := d.next(make([]byte, listBuffer), nil)
	if err == nil && len(list) > 0 {
		err = &os.PathError{Op: "copy to", Path: dir, Err: unix.ENOTEMPTY}
	}
	if err != nil {
		d.Close()
		return Dir{}, err
	}
	return d, nil
}

// device names an inode within the source.
type device struct{ dev, ino uint64 }

// copier copies one tree. A single goroutine walks and makes all names, so that a directory's times can
// be set as soon as its names are made, and a hard link finds its first name.
type copier struct {
	root    Dir
	files   *errgroup.Group   // fills regular files
	links   map[device]string // first name in dst, relative to root, of an inode with several
	noClone atomic.Bool       // the file systems cannot reflink: do not ask again
}

// directory copies what from holds into to, and then the directory's own attributes. path is to's
// place below root.
func (c *copier) directory(ctx context.Context, from, to Dir, path string) error {
	if err := c.entries(ctx, from, to, path); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(from.FD, &st); err != nil {
		return &os.PathError{Op: "stat", Path: from.Path, Err: err}
	}
	return copyAttributes(from.FD, to.FD, to.Path, &st)
}

func (c *copier) entries(ctx context.Context, from, to Dir, path string) error {
	var list []Entry
	buf := make([]byte, listBuffer)
	for {
		var err error
		if list, err = from.next(buf, list); err != nil || len(list) == 0 {
			return err
		}
		for _, e := range list {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("copy %s: %w", from.Path, err)
			}
			if err := c.entry(ctx, from, to, path, e.Name); err != nil {
				return err
			}
		}
	}
}

func (c *copier) entry(ctx context.Context, from, to Dir, path, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(from.FD, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "stat", Path: filepath.Join(from.Path, name), Err: err}
	}
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFSOCK {
		return nil
	}
	path = filepath.Join(path, name)
	if kind != unix.S_IFDIR && st.Nlink > 1 {
		id := device{uint64(st.Dev), st.Ino}
		if first, ok := c.links[id]; ok {
			if err := unix.Linkat(c.root.FD, first, to.FD, name, 0); err != nil {
				return &os.PathError{Op: "link " + first + " to", Path: filepath.Join(to.Path, name), Err: err}
			}
			return nil
		}
		c.links[id] = path
	}
	switch kind {
	case unix.S_IFDIR:
		return c.subdirectory(ctx, from, to, path, name)
	case unix.S_IFREG:
		return c.file(ctx, from, to, name, &st)
	}
	return copyNode(from, to, name, &st)
}

func (c *copier) subdirectory(ctx context.Context, from, to Dir, path, name string) error {
	subFrom, err := from.Open(name)
	if err != nil {
		return err
	}
	defer subFrom.Close()
	if err := unix.Mkdirat(to.FD, name, 0o700); err != nil {
		return &os.PathError{Op: "mkdir", Path: filepath.Join(to.Path, name), Err: err}
	}
	subTo, err := to.Open(name)
	if err != nil {
		return err
	}
	defer subTo.Close()
	return c.directory(ctx, subFrom, subTo, path)
}

// file makes a regular file and leaves it to another goroutine to fill it.
func (c *copier) file(ctx context.Context, from, to Dir, name string, st *unix.Stat_t) error {
	in, err := from.OpenFile(name)
	if err != nil {
		return err
	}
	path := filepath.Join(to.Path, name)
	out, err := unix.Openat(to.FD, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		_ = unix.Close(in) // only read
		return &os.PathError{Op: "create", Path: path, Err: err}
	}
	c.files.Go(func() error {
		err := c.content(ctx, in, out, path, st)
		if err == nil {
			err = copyAttributes(in, out, path, st)
		}
		_ = unix.Close(in) // only read
		if cerr := unix.Close(out); err == nil && cerr != nil {
			err = &os.PathError{Op: "close", Path: path, Err: cerr}
		}
		return err
	})
	return nil
}

// copyNode copies a symbolic link, a device or a FIFO.
func copyNode(from, to Dir, name string, st *unix.Stat_t) error {
	path := filepath.Join(to.Path, name)
	var err error
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		var target string
		if target, err = from.Readlink(name, st.Size); err != nil {
			return err
		}
		err = unix.Symlinkat(target, to.FD, name)
	} else {
		err = unix.Mknodat(to.FD, name, st.Mode&unix.S_IFMT|0o600, int(st.Rdev))
	}
	if err != nil {
		return &os.PathError{Op: "create", Path: path, Err: err}
	}
	return copyNodeAttributes(from, to, name, st)
}

// Readlink reads the symbolic link called name in d, which is expected to be size bytes long.
func (d Dir) Readlink(name string, size int64) (string, error) {
	for length := max(size, 63) + 1; ; length *= 2 {
		buf := make([]byte, length)
		n, err := unix.Readlinkat(d.FD, name, buf)
		if err != nil {
			return "", &os.PathError{Op: "readlink", Path: filepath.Join(d.Path, name), Err: err}
		}
		if int64(n) < length {
			return string(buf[:n]), nil
		}
	}
}
