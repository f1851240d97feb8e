package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"strata/backend/internal/dirfd"
)

const (
	// copyStep is how much one copy_file_range(2) is asked for, bytes, so that a cancelled copy ends soon.
	copyStep = 64 << 20
	// copyBuffer is for file systems without copy_file_range(2), bytes.
	copyBuffer = 256 << 10
)

// content gives the empty file out the content of in.
func (c *copier) content(ctx context.Context, in, out int, path string, st *unix.Stat_t) error {
	if st.Size == 0 {
		return nil
	}
	if !c.noClone.Load() {
		err := unix.IoctlFileClone(out, in)
		switch {
		case err == nil:
			return nil
		case cannotClone(err):
			c.noClone.Store(true)
		case !errors.Is(err, unix.EINVAL): // this file only: it is a swap file or the like
			return &os.PathError{Op: "reflink", Path: path, Err: err}
		}
	}
	if st.Blocks*blockUnit >= st.Size {
		return copyRange(ctx, in, out, path, 0, st.Size)
	}
	// The size comes first: it makes the holes, the last one included.
	if err := unix.Ftruncate(out, st.Size); err != nil {
		return &os.PathError{Op: "truncate", Path: path, Err: err}
	}
	return copyData(ctx, in, out, path)
}

func cannotClone(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EXDEV) || errors.Is(err, unix.ENOSYS)
}

// copyData copies what SEEK_DATA finds.
func copyData(ctx context.Context, in, out int, path string) error {
	for offset := int64(0); ; {
		start, err := unix.Seek(in, offset, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // nothing but a hole up to the end
			return nil
		}
		if err == nil {
			offset, err = unix.Seek(in, start, unix.SEEK_HOLE)
		}
		if err != nil {
			return &os.PathError{Op: "find data for", Path: path, Err: err}
		}
		if err := copyRange(ctx, in, out, path, start, offset); err != nil {
			return err
		}
	}
}

// copyRange copies bytes start to end. A source that ends earlier was changed, which is an error.
func copyRange(ctx context.Context, in, out int, path string, start, end int64) error {
	from, to := start, start
	for from < end {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("copy %s: %w", path, err)
		}
		var n int
		err := dirfd.Retry(func() (err error) {
			n, err = unix.CopyFileRange(in, &from, out, &to, int(min(end-from, copyStep)), 0)
			return err
		})
		switch {
		case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EXDEV), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL):
			return copyByHand(ctx, in, out, path, from, end)
		case err != nil:
			return &os.PathError{Op: "copy to", Path: path, Err: err}
		case n == 0: // some kernels before 5.19 say so for files that they cannot copy, such as in /proc
			return copyByHand(ctx, in, out, path, from, end)
		}
	}
	return nil
}

func copyByHand(ctx context.Context, in, out int, path string, start, end int64) error {
	buf := make([]byte, copyBuffer)
	for offset := start; offset < end; {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("copy %s: %w", path, err)
		}
		n, err := dirfd.ReadAt(in, buf[:min(end-offset, copyBuffer)], offset)
		if err == nil && n == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return &os.PathError{Op: "read for", Path: path, Err: err}
		}
		if err := dirfd.WriteAt(out, buf[:n], offset); err != nil {
			return &os.PathError{Op: "write", Path: path, Err: err}
		}
		offset += int64(n)
	}
	return nil
}
