package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

// standardOutput is the file name that means standard output.
const standardOutput = "-"

// isStdout says whether file names standard output: "-", or another name of it, such as /dev/stdout.
func (s *session) isStdout(file string) bool {
	if file == standardOutput {
		return true
	}
	out, ok := s.Stdout.(*os.File)
	if !ok {
		return false
	}
	is, err := out.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(file)
	return err == nil && os.SameFile(is, named) && !isNull(named)
}

// writeFile writes a file as a shell's redirection does: links are followed, and devices and fifos are written
// into. But a plain file appears, or is replaced, only when write has succeeded: until then, and after a
// failure, what was there stays. A replaced file keeps its owner and mode; a new one is its owner's alone. A file that
// has more than that, or that somebody has open under this name, is written into (replaceable, ownDescriptor).
func writeFile(ctx context.Context, file string, write func(w io.Writer) error) error {
	if strings.HasSuffix(file, "/") {
		return isDirectory(file)
	}
	path, err := destination(file)
	if err != nil {
		return err
	}
	old, err := openOutput(ctx, path)
	if errors.Is(err, fs.ErrNotExist) {
		return writeRegular(path, nil, write)
	}
	if err != nil {
		return err
	}
	st, whole, err := prepare(old, path)
	switch {
	case err != nil:
		return errors.Join(err, old.Close())
	case !whole:
		return writeInto(ctx, old, path, write)
	}
	if err := old.Close(); err != nil { // it was opened to learn whether it may be written to
		return err
	}
	return writeRegular(path, st, write)
}

// prepare says whether the file at path, which f is, is replaced as a whole. Else it is empty afterwards, if it is regular.
func prepare(f *os.File, path string) (st fs.FileInfo, whole bool, err error) {
	st, err = f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return st, false, err
	}
	if _, ok := ownDescriptor(path); ok {
		return st, false, nil // who has it open says where to write
	}
	if whole, err = replaceable(f, path, st); err != nil || whole {
		return st, whole, err
	}
	return st, false, f.Truncate(0)
}

// writeInto writes to a file that is open, and closes it.
func writeInto(ctx context.Context, f *os.File, path string, write func(w io.Writer) error) error {
	stop := context.AfterFunc(ctx, func() { _ = f.Close() }) // a fifo that nobody reads from must not hold up the end
	err := buffered(f, write)
	if stop() {
		err = errors.Join(err, f.Close())
	}
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("write %s: %w", path, cause)
	}
	return err
}

func isDirectory(file string) error {
	return fmt.Errorf("%s is a directory: name a file in it: %w", file, errdefs.ErrInvalidArgument)
}

// openOutput opens what is there for writing. A fifo makes it wait for a reader, as long as ctx lasts. A regular file that is a
// descriptor of this process is that, with its offset: others may have written to it.
func openOutput(ctx context.Context, file string) (*os.File, error) {
	st, err := os.Stat(file)
	switch {
	case err != nil:
		return nil, err
	case st.IsDir():
		return nil, isDirectory(file)
	case st.Mode()&fs.ModeSocket != 0:
		return nil, fmt.Errorf("%s is a socket, which cannot be written to as a file: %w", file, errdefs.ErrInvalidArgument)
	}
	if fd, ok := ownDescriptor(file); ok && st.Mode().IsRegular() {
		return duplicate(fd)
	}
	type opened struct {
		f   *os.File
		err error
	}
	result := make(chan opened, 1)
	go func() {
		f, err := os.OpenFile(file, os.O_WRONLY, 0)
		result <- opened{f, err}
	}()
	select {
	case o := <-result:
		return o.f, o.err
	case <-ctx.Done(): // the process ends, and with it the one that waits
		return nil, fmt.Errorf("open %s: %w", file, context.Cause(ctx))
	}
}

// buffered gives write a buffered w.
func buffered(w io.Writer, write func(w io.Writer) error) error {
	const buffer = 256 << 10 // bytes
	b := bufio.NewWriterSize(w, buffer)
	if err := write(b); err != nil {
		return err
	}
	return b.Flush()
}

// writeRegular writes a file that appears when it is complete, in place of old or of nothing.
func writeRegular(path string, old fs.FileInfo, write func(w io.Writer) error) (err error) {
	p, err := newPart(path)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.discard())
		}
	}()
	if err := buffered(p.file, write); err != nil {
		return err
	}
	if old != nil {
		if err := likeBefore(p.file, old); err != nil {
			return fmt.Errorf("keep owner and mode of %s: %w", path, err)
		}
	}
	if err := p.file.Sync(); err != nil { // or a power cut could leave neither the old file nor the new one
		return err
	}
	return p.publish()
}

// destination follows the links at the end of a path to the name that a file has or, where a link
// leads nowhere, gets. A descriptor in /proc only looks like a link: the name that it shows may be another file's by now.
func destination(file string) (path string, err error) {
	const most = 40 // links, as Linux follows
	for range most {
		dir, name := filepath.Split(file) // not Dir, which takes ".." for the directory that a link lies in
		if dir == "" {
			dir = "."
		}
		said := filepath.Clean(dir)
		if dir, err = filepath.EvalSymlinks(dir); err != nil {
			if failed := (*fs.PathError)(nil); errors.As(err, &failed) { // of a call that means nothing to the user
				err = failed.Err
			}
			return "", fmt.Errorf("write %s: directory %s: %w", file, said, err)
		}
		file = filepath.Join(dir, name)
		if inProc(dir) {
			return file, nil
		}
		link, err := os.Readlink(file)
		if err != nil {
			return file, nil //nolint:nilerr // it is no link, or is not there
		}
		if strings.HasSuffix(link, "/") {
			return "", isDirectory(link)
		}
		if file = link; !filepath.IsAbs(link) {
			file = dir + string(filepath.Separator) + link
		}
	}
	return "", fmt.Errorf("%s: too many symbolic links: %w", file, errdefs.ErrInvalidArgument)
}

// part is a file on its way to its path.
type part struct {
	file *os.File
	path string // where it is to appear
	name string // what it is called meanwhile, in the same directory; "" for nothing
}

// named makes a part that has a name until it is published.
func named(path string) (*part, error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".strata-")
	if err != nil {
		return nil, err
	}
	return &part{file: f, path: path, name: f.Name()}, nil
}

// rename lets the part appear under its path.
func (p *part) rename() error {
	if err := p.file.Close(); err != nil {
		return err
	}
	return os.Rename(p.name, p.path)
}

// discard removes a part that was not published.
func (p *part) discard() error {
	if err := p.file.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
		return err
	}
	if p.name == "" {
		return nil
	}
	return os.Remove(p.name)
}
