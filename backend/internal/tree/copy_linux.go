package tree

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"strata/backend/internal/dirfd"
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
	from, err := dirfd.Open(src)
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
	c := copier{root: to, from: dirfd.NewWalk(from, dirfd.AsListed), to: dirfd.NewTrail(to), files: files, links: map[dirfd.Inode]link{}}
	defer c.close()
	err = c.tree(ctx)
	// A failed file has cancelled ctx, and is the error that tells more.
	if ferr := files.Wait(); ferr != nil {
		return ferr
	}
	return err
}

// openEmpty makes a directory, or opens one that is empty.
func openEmpty(dir string) (dirfd.Dir, error) {
	if err := unix.Mkdir(dir, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return dirfd.Dir{}, &os.PathError{Op: "mkdir", Path: dir, Err: err}
	}
	d, err := dirfd.Open(dir)
	if err != nil {
		return dirfd.Dir{}, err
	}
	_, some, err := dirfd.NewWalk(d, dirfd.AsListed).Next()
	if some {
		err = &os.PathError{Op: "copy to", Path: dir, Err: unix.ENOTEMPTY}
	}
	if err != nil {
		d.Close()
		return dirfd.Dir{}, err
	}
	return d, nil
}

// copier copies one tree. A single goroutine walks and makes all names, so that a directory's times can
// be set as soon as its names are made, and a hard link finds its first name.
type copier struct {
	root  dirfd.Dir
	from  *dirfd.Walk
	to    *dirfd.Trail         // in step with from
	files *errgroup.Group      // fills regular files
	links map[dirfd.Inode]link // by the inode in the source, of those with several names
	near  struct {             // where the last link was found
		at  *dirfd.Place
		dir dirfd.Dir
	}
	noClone atomic.Bool // the file systems cannot reflink: do not ask again
}

// link is the first name of an inode in dst.
type link struct {
	in   *dirfd.Place
	name string
}

func (c *copier) close() {
	c.from.Close()
	c.to.Close()
	if c.near.at != nil {
		c.near.dir.Close()
	}
}

// tree copies what the source holds, each directory's own attributes after what is in it.
func (c *copier) tree(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("copy %s: %w", c.from.Dir(), err)
		}
		e, ok, err := c.from.Next()
		if err != nil {
			return err
		}
		if ok {
			if err := c.entry(ctx, e.Name); err != nil {
				return err
			}
			continue
		}
		if err := c.attributes(); err != nil || c.from.Depth() == 0 {
			return err
		}
		if err := errors.Join(c.from.Leave(), c.to.Leave()); err != nil {
			return err
		}
	}
}

// attributes completes a directory.
func (c *copier) attributes() error {
	from, to := c.from.Dir().Self(), c.to.Dir().Self()
	st, err := from.Stat()
	if err != nil {
		return err
	}
	return copyAttributes(from, to, &st)
}

func (c *copier) entry(ctx context.Context, name string) error {
	from, to := c.from.Dir(), c.to.Dir()
	st, err := from.File(name).Stat()
	if err != nil {
		return err
	}
	kind := st.Mode & unix.S_IFMT
	switch {
	case kind == unix.S_IFSOCK:
		return nil
	case kind == unix.S_IFDIR:
		return c.subdirectory(name)
	case st.Nlink > 1:
		id := dirfd.InodeOf(&st)
		if first, ok := c.links[id]; ok {
			return c.link(first, name)
		}
		c.links[id] = link{c.to.Place(), name}
	}
	if kind == unix.S_IFREG {
		return c.file(ctx, from, to, name, &st)
	}
	return copyNode(from, to, name, &st)
}

// link makes another name of a file that is copied.
func (c *copier) link(first link, name string) error {
	in := c.root
	if first.in != nil {
		if err := c.approach(first.in); err != nil {
			return err
		}
		in = c.near.dir
	}
	to := c.to.Dir()
	if err := unix.Linkat(in.FD, first.name, to.FD, name, 0); err != nil {
		return &os.PathError{Op: "link " + first.name + " to", Path: to.Join(name), Err: err}
	}
	return nil
}

// approach opens the directory of a link's first name, unless it is open: links come in groups.
func (c *copier) approach(at *dirfd.Place) error {
	if c.near.at == at {
		return nil
	}
	d, err := c.root.OpenPlace(at)
	if err != nil {
		return err
	}
	if c.near.at != nil {
		c.near.dir.Close()
	}
	c.near.at, c.near.dir = at, d
	return nil
}

// subdirectory makes a directory and goes into it.
func (c *copier) subdirectory(name string) error {
	if err := c.from.Enter(name); err != nil {
		return err
	}
	to := c.to.Dir()
	if err := unix.Mkdirat(to.FD, name, 0o700); err != nil {
		return &os.PathError{Op: "mkdir", Path: to.Join(name), Err: err}
	}
	return c.to.Enter(name)
}

// file makes a regular file and leaves it to another goroutine to fill it.
func (c *copier) file(ctx context.Context, from, to dirfd.Dir, name string, st *unix.Stat_t) error {
	in, err := from.OpenFile(name)
	if err != nil {
		return err
	}
	path := to.Join(name)
	out, err := unix.Openat(to.FD, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		_ = unix.Close(in) // only read
		return &os.PathError{Op: "create", Path: path, Err: err}
	}
	// Paths of their own: the walks go on meanwhile.
	source, made := dirfd.Dir{}.Opened(from.Join(name), in), dirfd.Dir{}.Opened(path, out)
	c.files.Go(func() error {
		err := c.content(ctx, in, out, path, st)
		if err == nil {
			err = copyAttributes(source, made, st)
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
func copyNode(from, to dirfd.Dir, name string, st *unix.Stat_t) error {
	path := to.Join(name)
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
	return copyAttributes(from.File(name), to.File(name), st)
}
