package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// newPart makes a file without a name, so that nothing is left of it if the process is killed. File systems that
// have no such files, NFS for one, give it a name.
func newPart(path string) (*part, error) {
	dir := filepath.Dir(path)
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EISDIR):
		return named(path)
	case err != nil:
		return nil, &os.PathError{Op: "create file in", Path: dir, Err: err}
	}
	return &part{file: os.NewFile(uintptr(fd), path), path: path}, nil
}

// publish lets the part appear under its path. A file that is there can only be replaced by one that has a name.
func (p *part) publish() error {
	if p.name == "" {
		free, err := named(p.path)
		if err != nil {
			return err
		}
		if err := free.discard(); err != nil {
			return err
		}
		self := fmt.Sprintf("/proc/self/fd/%d", p.file.Fd())
		if err := unix.Linkat(unix.AT_FDCWD, self, unix.AT_FDCWD, free.name, unix.AT_SYMLINK_FOLLOW); err != nil {
			return &os.LinkError{Op: "link", Old: self, New: free.name, Err: err}
		}
		p.name = free.name
	}
	return p.rename()
}

// replaceable says whether a regular file is no more than its content, owner and mode under one name, so that another can take its
// place. Attributes of security modules do not count: a new file gets its own.
func replaceable(f *os.File, path string, st fs.FileInfo) (bool, error) {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok && sys.Nlink != 1 || inProc(filepath.Dir(path)) {
		return false, nil
	}
	names := make([]byte, maxAttributes)
	n, err := unix.Flistxattr(int(f.Fd()), names)
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return false, &os.PathError{Op: "list attributes of", Path: path, Err: err}
	}
	for name := range strings.SplitSeq(string(names[:max(n, 0)]), "\x00") {
		if name != "" && !strings.HasPrefix(name, "security.") {
			return false, nil
		}
	}
	mounted, err := mountinfo.Mounted(path)
	return !mounted, err
}

// maxAttributes is the most that the names of a file's attributes have in bytes: XATTR_LIST_MAX.
const maxAttributes = 64 << 10

// inProc says whether a directory is in /proc, where links lead to open files whatever they are called.
func inProc(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Type == unix.PROC_SUPER_MAGIC
}

// ownDescriptor returns the descriptor of this process that a path without links, in /proc, names.
func ownDescriptor(path string) (fd int, ok bool) {
	dir, name := filepath.Split(path)
	fd, err := strconv.Atoi(name)
	if err != nil || !inProc(dir) || filepath.Base(dir) != "fd" {
		return 0, false
	}
	self, err := filepath.EvalSymlinks("/proc/self")
	return fd, err == nil && strings.HasPrefix(dir, self+"/") // its threads have the same, in task/TID/fd
}

// duplicate returns a file of its own for a descriptor.
func duplicate(fd int) (*os.File, error) {
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate descriptor %d: %w", fd, err)
	}
	return os.NewFile(uintptr(dup), fmt.Sprintf("/dev/fd/%d", fd)), nil
}

// likeBefore gives a file the owner and mode of the one that it replaces. Owner first: changing it clears bits of the mode.
func likeBefore(f *os.File, old fs.FileInfo) error {
	if st, ok := old.Sys().(*syscall.Stat_t); ok {
		if err := f.Chown(int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	return f.Chmod(old.Mode().Perm())
}
