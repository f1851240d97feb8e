package dirsink

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strata/backend"
	"strata/backend/internal/dirfd"
	"strata/backend/internal/layertar/openat"
)

// Open returns the contents of the files in dir. It follows no symlinks. The caller closes it.
func Open(dir string) (backend.Source, error) {
	root, err := openat.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &source{root: root}, nil
}

// source is a directory.
type source struct{ root int }

// Reader implements backend.Source.
func (s *source) Reader() backend.SourceReader { return &reader{openat.NewDirReader(s.root)} }

// Close implements backend.Source.
func (s *source) Close() error {
	openat.CloseQuietly(s.root, -1)
	return nil
}

// reader keeps some directories open.
type reader struct{ dirs *openat.DirReader }

// Close implements backend.SourceReader.
func (r *reader) Close() error {
	r.dirs.Close()
	return nil
}

// ReadFile implements backend.SourceReader.
func (r *reader) ReadFile(at string, size int64, p []byte, offset int64) error {
	fd, err := r.dirs.File(at)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrDataLoss)
	}
	if err != nil {
		return err
	}
	defer openat.CloseQuietly(fd, -1)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != size {
		return fmt.Errorf("mode %#o, size %d; want a regular file of %d bytes: %w", st.Mode, st.Size, size, errdefs.ErrDataLoss)
	}
	n, err := dirfd.ReadAt(fd, p, offset)
	if err != nil {
		return err
	}
	if n < len(p) {
		return fmt.Errorf("%d bytes at %d, want %d: %w", n, offset, len(p), errdefs.ErrDataLoss)
	}
	return nil
}
