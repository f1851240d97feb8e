package layertar

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// retry repeats a system call that a signal interrupted.
func retry(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

const dirFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

// openRoot opens the directory that everything else stays in.
func openRoot(dir string) (int, error) {
	fd := -1
	err := retry(func() (err error) {
		fd, err = unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return -1, fmt.Errorf("open layer directory %s: %w", dir, err)
	}
	return fd, nil
}

// openDirAt opens the directory at a clean relative path below root. A symlink anywhere in the path
// is ELOOP or ENOTDIR, a mount point EXDEV.
func openDirAt(root int, path string) (int, error) {
	if path == "." {
		return openAt(root, ".", dirFlags)
	}
	how := unix.OpenHow{
		Flags:   dirFlags,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	fd := -1
	err := retry(func() (err error) {
		fd, err = unix.Openat2(root, path, &how)
		return err
	})
	if errors.Is(err, unix.ENOSYS) { // before Linux 5.6
		return walkDirAt(root, path)
	}
	return fd, err
}

// walkDirAt is openDirAt for kernels without openat2: one component at a time.
func walkDirAt(root int, path string) (int, error) {
	at := root
	for part := range strings.SplitSeq(path, "/") {
		if part == ".." {
			closeQuietly(at, root)
			return -1, unix.EXDEV
		}
		next, err := openAt(at, part, dirFlags)
		closeQuietly(at, root)
		if err != nil {
			return -1, err
		}
		at = next
	}
	return at, nil
}

// closeQuietly closes a directory that was only read, unless it is keep. There is nothing to lose.
func closeQuietly(fd, keep int) {
	if fd != keep {
		_ = unix.Close(fd) // read only: an error can lose nothing
	}
}

func openAt(dir int, name string, flags int) (int, error) {
	fd := -1
	err := retry(func() (err error) {
		fd, err = unix.Openat(dir, name, flags, 0)
		return err
	})
	return fd, err
}

// openFileAt opens a file for reading without following a symlink, without waiting for the other
// end of a FIFO and, where the owner permits, without changing its access time: on a fresh layer
// that would dirty every inode.
func openFileAt(dir int, name string) (int, error) {
	const flags = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
	fd, err := openAt(dir, name, flags|unix.O_NOATIME)
	if errors.Is(err, unix.EPERM) {
		return openAt(dir, name, flags)
	}
	return fd, err
}

// preadFull fills p from the offset and returns how much there was.
func preadFull(fd int, p []byte, offset int64) (int, error) {
	done := 0
	for done < len(p) {
		var n int
		err := retry(func() (err error) {
			n, err = unix.Pread(fd, p[done:], offset+int64(done))
			return err
		})
		if err != nil {
			return done, err
		}
		if n == 0 {
			break
		}
		done += n
	}
	return done, nil
}

// dirReader opens files below a root, keeping the directories used last open. It is for one
// goroutine.
type dirReader struct {
	root int
	open [dirReaderSize]openDir
	next int // to be replaced
}

type openDir struct {
	path string
	fd   int
}

// dirReaderSize is enough for a walk in path order of a tree 8 deep.
const dirReaderSize = 8

func newDirReader(root int) *dirReader { return &dirReader{root: root} }

// dir returns the directory at a clean relative path. It stays open until the next call.
func (r *dirReader) dir(path string) (int, error) {
	if path == "." {
		return r.root, nil
	}
	for i := range r.open {
		if r.open[i].path == path {
			return r.open[i].fd, nil
		}
	}
	fd, err := openDirAt(r.root, path)
	if err != nil {
		return -1, err
	}
	slot := &r.open[r.next]
	r.next = (r.next + 1) % dirReaderSize
	slot.close()
	*slot = openDir{path, fd}
	return fd, nil
}

// file opens the file at a clean relative path for reading.
func (r *dirReader) file(path string) (int, error) {
	dir, base := splitName(path)
	at, err := r.dir(dir)
	if err != nil {
		return -1, err
	}
	return openFileAt(at, base)
}

func (r *dirReader) close() {
	for i := range r.open {
		r.open[i].close()
		r.open[i] = openDir{}
	}
}

func (d *openDir) close() {
	if d.path != "" {
		closeQuietly(d.fd, -1)
	}
}
