// Package regular reads regular files of a bounded size, and nothing else: no fifo or device that stands in the place of a file
// makes a reader wait or does something.
package regular

import (
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/containerd/errdefs"
)

// Read reads the file at path, which another program writes, as Open opens it.
func Read(path string, most int64) ([]byte, error) { return read(path, most, Open) }

// ReadOwn reads the file at path as OpenOwn opens it.
func ReadOwn(path string, most int64) ([]byte, error) { return read(path, most, OpenOwn) }

func read(path string, most int64, open func(string, int64) (*os.File, error)) ([]byte, error) {
	f, err := open(path, most)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1)) // it may have grown
	if err != nil {
		return nil, err
	}
	return text, fits(path, int64(len(text)), most)
}

// Open opens the file at path, which another program writes, for reading. It does not wait for the other end of a fifo.
// ErrFailedPrecondition if the file is no regular file or is larger than most bytes.
func Open(path string, most int64) (*os.File, error) { return open(path, most, os.Stat, 0) }

// OpenOwn is Open for a file that this program has written itself: a symbolic link in its place is no regular file.
func OpenOwn(path string, most int64) (*os.File, error) {
	return open(path, most, os.Lstat, noFollow)
}

func open(path string, most int64, stat func(string) (fs.FileInfo, error), flags int) (*os.File, error) {
	st, err := stat(path)
	if err != nil {
		return nil, err
	}
	if err := check(path, st, most); err != nil { // opening a device could do something
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|noWait|flags, 0)
	if err != nil {
		return nil, err
	}
	if st, err = f.Stat(); err == nil {
		err = check(path, st, most) // it may be another by now
	}
	if err != nil {
		_ = f.Close() // nothing was written
		return nil, err
	}
	return f, nil
}

func check(path string, st fs.FileInfo, most int64) error {
	if !st.Mode().IsRegular() {
		return fmt.Errorf("read %s: it is no regular file (%s): %w", path, st.Mode(), errdefs.ErrFailedPrecondition)
	}
	return fits(path, st.Size(), most)
}

func fits(path string, size, most int64) error {
	if size > most {
		return fmt.Errorf("read %s: it is larger than %d bytes: %w", path, most, errdefs.ErrFailedPrecondition)
	}
	return nil
}
