package tree

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"strata/backend/internal/dirfd"
)

// modeBits are the bits of st_mode that chmod(2) sets.
const modeBits = 0o7777

// copyAttributes gives an open file or directory the owner, extended attributes, mode and times of
// another one: in this order, since chown drops setuid and capabilities, an ACL changes the mode, and
// all of them change nothing about the times but ctime.
func copyAttributes(in, out int, path string, st *unix.Stat_t) error {
	if err := unix.Fchown(out, int(st.Uid), int(st.Gid)); err != nil {
		return &os.PathError{Op: "chown", Path: path, Err: err}
	}
	source := attributes{
		list: func(buf []byte) (int, error) { return unix.Flistxattr(in, buf) },
		get:  func(name string, buf []byte) (int, error) { return unix.Fgetxattr(in, name, buf) },
	}
	err := source.copy(path, func(name string, value []byte) error { return unix.Fsetxattr(out, name, value, 0) })
	if err != nil {
		return err
	}
	if err := unix.Fchmod(out, st.Mode&modeBits); err != nil {
		return &os.PathError{Op: "chmod", Path: path, Err: err}
	}
	if err := setTimes(out, []unix.Timespec{st.Atim, st.Mtim}); err != nil {
		return &os.PathError{Op: "set times of", Path: path, Err: err}
	}
	return nil
}

// setTimes sets access and modification time of an open file.
func setTimes(fd int, times []unix.Timespec) error {
	err := unix.UtimesNanoAt(fd, "", times, unix.AT_EMPTY_PATH)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // kernels before 5.8 know no AT_EMPTY_PATH here
		err = unix.UtimesNanoAt(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), times, 0)
	}
	return err
}

// copyNodeAttributes does the same by name, for what cannot be opened without side effects.
func copyNodeAttributes(from, to dirfd.Dir, name string, st *unix.Stat_t) error {
	path := to.Join(name)
	if err := unix.Fchownat(to.FD, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "chown", Path: path, Err: err}
	}
	source := attributes{
		list: func(buf []byte) (int, error) { return from.ListXattrs(name, buf) },
		get:  func(attribute string, buf []byte) (int, error) { return from.Xattr(name, attribute, buf) },
	}
	err := source.copy(path, func(attribute string, value []byte) error {
		return unix.Lsetxattr(to.Proc(name), attribute, value, 0)
	})
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK { // a link has no mode; nothing else has become one since we made it
		if err := unix.Fchmodat(to.FD, name, st.Mode&modeBits, 0); err != nil {
			return &os.PathError{Op: "chmod", Path: path, Err: err}
		}
	}
	if err := unix.UtimesNanoAt(to.FD, name, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "set times of", Path: path, Err: err}
	}
	return nil
}

// attributes reads the extended attributes of one file.
type attributes struct {
	list func(buf []byte) (int, error)
	get  func(name string, buf []byte) (int, error)
}

func (a attributes) copy(path string, set func(name string, value []byte) error) error {
	names, err := grow(a.list)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "list extended attributes for", Path: path, Err: dirfd.ListError(err)}
	}
	for name := range strings.SplitSeq(string(bytes.TrimSuffix(names, []byte{0})), "\x00") {
		if name == "" {
			continue
		}
		value, err := grow(func(buf []byte) (int, error) { return a.get(name, buf) })
		if err != nil {
			return &os.PathError{Op: "read extended attribute " + name + " for", Path: path, Err: err}
		}
		err = set(name, value)
		if errors.Is(err, unix.EOPNOTSUPP) && strings.HasPrefix(name, "btrfs.") {
			continue // how btrfs stores the file, not what is in it
		}
		if err != nil {
			return &os.PathError{Op: "set extended attribute " + name + " of", Path: path, Err: err}
		}
	}
	return nil
}

// grow calls f with buffers that get larger until the answer fits.
func grow(f func(buf []byte) (int, error)) ([]byte, error) {
	const most = 64 << 10 // XATTR_LIST_MAX and XATTR_SIZE_MAX in include/uapi/linux/limits.h
	for size := 256; ; size = most {
		buf := make([]byte, size)
		n, err := f(buf)
		if err == nil {
			return buf[:n], nil
		}
		if !errors.Is(err, unix.ERANGE) || size == most {
			return nil, err
		}
	}
}
