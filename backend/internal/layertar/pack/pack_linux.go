package pack

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strata/backend"
	"strata/backend/internal/dirfd"
	"strata/backend/internal/layertar/openat"
	"strata/backend/internal/layertar/tarcodec"
)

// copyLen is how much is read and written at a time.
const copyLen = 256 << 10

// Changes writes a layer tar with the changes, in their order, taking what was added or
// modified from the tree at dir. Deletions become .wh. files, files with the same inode hard links
// to the first of them. Sockets are left out, as in Docker, but what they have replaced is deleted. The same tree gives the
// same bytes.
//
// A file that cannot be read is an error; the tar is then cut off.
func Changes(ctx context.Context, w io.Writer, dir string, changes iter.Seq2[backend.Change, error], o Options) error {
	root, err := openat.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer openat.CloseQuietly(root, -1)
	p := &packer{
		o:     o,
		out:   bufio.NewWriterSize(w, copyLen),
		dirs:  openat.NewDirReader(root),
		first: map[inode]string{},
		buf:   make([]byte, copyLen),
	}
	defer p.dirs.Close()
	for c, err := range changes {
		if err != nil {
			return fmt.Errorf("list changes in %s: %w", dir, err)
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := p.change(ctx, c); err != nil {
			return fmt.Errorf("pack %q from %s: %w", c.Path, dir, err)
		}
	}
	var end [2 * tarcodec.BlockSize]byte
	if _, err := p.out.Write(end[:]); err != nil {
		return fmt.Errorf("write tar: %w", err)
	}
	if err := p.out.Flush(); err != nil {
		return fmt.Errorf("write tar: %w", err)
	}
	return nil
}

// packer is one call of Changes.
type packer struct {
	o     Options
	out   *bufio.Writer
	enc   tarcodec.Encoder
	dirs  *openat.DirReader
	first map[inode]string // files with several links: the name that was packed first
	buf   []byte
}

type inode struct{ dev, ino uint64 }

func (p *packer) change(ctx context.Context, c backend.Change) error {
	name := tarcodec.CleanName(c.Path)
	if name == "." {
		return fmt.Errorf("the root is no change: %w", errdefs.ErrInvalidArgument)
	}
	if err := tarcodec.CheckName(name); err != nil {
		return err
	}
	if c.Kind == backend.Deleted {
		return p.whiteout(name)
	}
	err := p.pack(ctx, name)
	switch {
	case errors.Is(err, errSocket) && c.Kind == backend.Modified:
		return p.whiteout(name)
	case errors.Is(err, errSocket), p.o.Vanished && gone(err):
		return nil
	}
	return err
}

func (p *packer) whiteout(name string) error {
	parent, base := tarcodec.SplitName(name)
	_, err := p.out.Write(p.enc.Encode(&tarcodec.Entry{Name: tarcodec.JoinName(parent, tarcodec.WhiteoutPrefix+base), Kind: tarcodec.KindFile, Mode: 0o600}))
	return err
}

// errSocket says that a file cannot be in a tar.
var errSocket = errors.New("is a socket")

// errVanished marks errors that mean that a file was there a moment ago.
var errVanished = errors.New("file has vanished")

func gone(err error) bool { return errors.Is(err, errVanished) }

// vanished marks err if it says that the path does not lead to the file any more.
func vanished(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ESTALE) {
		return fmt.Errorf("%w: %w", errVanished, err)
	}
	return err
}

func (p *packer) pack(ctx context.Context, name string) error {
	parent, base := tarcodec.SplitName(name)
	dir, err := p.dirs.Dir(parent)
	if err != nil {
		return vanished(err)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return vanished(err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		return errSocket
	case unix.S_IFREG:
		return p.file(ctx, dir, base, name)
	}
	e := &tarcodec.Entry{Name: name}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		if e.Link, err = openat.ReadLink(dir, base); err != nil {
			return vanished(err)
		}
	}
	if err := p.describe(e, &st); err != nil {
		return err
	}
	if e.Xattrs, err = openat.ReadXattrs(openat.File{FD: -1, Dir: dir, Name: base}, p.o.Marks); err != nil {
		return vanished(err)
	}
	return p.header(e, &st)
}

// describe fills e from st.
func (p *packer) describe(e *tarcodec.Entry, st *unix.Stat_t) error {
	uid, gid, err := p.o.IDMap.ToContainer(st.Uid, st.Gid)
	if err != nil {
		return err
	}
	e.Mode, e.UID, e.GID = st.Mode&tarcodec.ModeBits, int64(uid), int64(gid)
	e.Mtime = tarcodec.Stamp{Sec: st.Mtim.Sec, Nsec: st.Mtim.Nsec}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		e.Kind, e.Size = tarcodec.KindFile, st.Size
	case unix.S_IFDIR:
		e.Kind, e.Name = tarcodec.KindDir, e.Name+"/"
	case unix.S_IFLNK:
		e.Kind, e.Mode = tarcodec.KindSymlink, 0o777
	case unix.S_IFIFO:
		e.Kind = tarcodec.KindFifo
	case unix.S_IFCHR:
		e.Kind = tarcodec.KindChar
	case unix.S_IFBLK:
		e.Kind = tarcodec.KindBlock
	default:
		return fmt.Errorf("file of unknown kind %#o: %w", st.Mode, errdefs.ErrNotImplemented)
	}
	if e.Kind == tarcodec.KindChar || e.Kind == tarcodec.KindBlock {
		e.Major, e.Minor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	}
	return nil
}

// header writes the entry, as a hard link if its inode was packed before. What follows it is data
// only if e is a file of a size.
func (p *packer) header(e *tarcodec.Entry, st *unix.Stat_t) error {
	if st.Nlink > 1 && e.Kind != tarcodec.KindDir {
		key := inode{st.Dev, st.Ino}
		if target, ok := p.first[key]; ok {
			e.Kind, e.Link, e.Size = tarcodec.KindLink, target, 0
			e.Major, e.Minor = 0, 0
		} else {
			p.first[key] = e.Name
		}
	}
	b := p.enc.Encode(e)
	if len(b) > tarcodec.MaxSpecial+2*tarcodec.BlockSize {
		return fmt.Errorf("name and attributes take %d bytes, an extension header has at most %d: %w", len(b), tarcodec.MaxSpecial, errdefs.ErrInvalidArgument)
	}
	_, err := p.out.Write(b)
	return err
}

func (p *packer) file(ctx context.Context, dir int, base, name string) error {
	fd, err := openat.OpenFileAt(dir, base)
	if err != nil {
		return vanished(err)
	}
	defer openat.CloseQuietly(fd, -1)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG { // replaced since we looked
		return fmt.Errorf("is no regular file any more: %w", errVanished)
	}
	e := &tarcodec.Entry{Name: name}
	if err := p.describe(e, &st); err != nil {
		return err
	}
	if e.Xattrs, err = openat.ReadXattrs(openat.File{FD: fd, Dir: dir, Name: base}, p.o.Marks); err != nil {
		return err
	}
	if err := p.header(e, &st); err != nil {
		return err
	}
	return p.data(ctx, fd, e.Size)
}

// data copies size bytes of a file and pads them to a block. A file that grew is cut off there.
func (p *packer) data(ctx context.Context, fd int, size int64) error {
	for offset := int64(0); offset < size; {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		want := p.buf[:min(int64(len(p.buf)), size-offset)]
		n, err := dirfd.ReadAt(fd, want, offset)
		if err != nil {
			return err
		}
		if n < len(want) && !p.o.Vanished {
			return fmt.Errorf("file shrank from %d to %d bytes while it was read: %w", size, offset+int64(n), errdefs.ErrUnavailable)
		}
		clear(want[n:])
		if _, err := p.out.Write(want); err != nil {
			return err
		}
		offset += int64(len(want))
	}
	var zeros [tarcodec.BlockSize]byte
	_, err := p.out.Write(zeros[:tarcodec.Padding(size)])
	return err
}
