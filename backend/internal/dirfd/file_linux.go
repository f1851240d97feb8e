package dirfd

import (
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// File is a file that is open or, if it is not, what a name in an open directory says. Then a symbolic link is meant
// itself. It is a value: it holds no descriptor of its own. Its errors are *os.PathError.
type File struct {
	dir  Dir
	name string
	fd   int // -1 if the file is not open
}

// File is what is called name in d.
func (d Dir) File(name string) File { return File{dir: d, name: name, fd: -1} }

// Opened is an open file that is called name in d, for messages.
func (d Dir) Opened(name string, fd int) File { return File{dir: d, name: name, fd: fd} }

// Self is the directory itself.
func (d Dir) Self() File { return d.Opened(".", d.FD) }

// String returns the path for messages, like that of Dir.
func (f File) String() string { return f.dir.Join(f.name) }

func (f File) fail(op string, err error) error {
	return &os.PathError{Op: op, Path: f.String(), Err: err}
}

// Stat describes the file.
func (f File) Stat() (st unix.Stat_t, err error) {
	if f.fd >= 0 {
		err = unix.Fstat(f.fd, &st)
	} else {
		err = unix.Fstatat(f.dir.FD, f.name, &st, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err != nil {
		return st, f.fail("stat", err)
	}
	return st, nil
}

// Chown changes the owner, and thereby clears set-ID bits and file capabilities (chown(2)).
func (f File) Chown(uid, gid uint32) (err error) {
	if f.fd >= 0 {
		err = unix.Fchown(f.fd, int(uid), int(gid))
	} else {
		err = unix.Fchownat(f.dir.FD, f.name, int(uid), int(gid), unix.AT_SYMLINK_NOFOLLOW)
	}
	if err != nil {
		return f.fail("chown", err)
	}
	return nil
}

// modeBits are the bits of st_mode that chmod(2) sets.
const modeBits = 0o7777

// Chmod gives the file the twelve bits of a mode. A symbolic link has none: it is never to be called for a name that
// others can make one.
func (f File) Chmod(mode uint32) (err error) {
	if f.fd >= 0 {
		err = unix.Fchmod(f.fd, mode&modeBits)
	} else {
		err = unix.Fchmodat(f.dir.FD, f.name, mode&modeBits, 0)
	}
	if err != nil {
		return f.fail("chmod", err)
	}
	return nil
}

// SetTimes sets access and modification time.
func (f File) SetTimes(times [2]unix.Timespec) (err error) {
	if f.fd < 0 {
		err = unix.UtimesNanoAt(f.dir.FD, f.name, times[:], unix.AT_SYMLINK_NOFOLLOW)
	} else {
		err = unix.UtimesNanoAt(f.fd, "", times[:], unix.AT_EMPTY_PATH)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // kernels before 5.8 know no AT_EMPTY_PATH here
			err = unix.UtimesNanoAt(unix.AT_FDCWD, Proc(f.fd), times[:], 0)
		}
	}
	if err != nil {
		return f.fail("set times of", err)
	}
	return nil
}

// Proc returns a path that leads to an open file, for system calls that take no descriptor. It needs /proc.
func Proc(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// Proc returns a path that leads to name in d, likewise. A link of this name is not followed by calls that do not
// follow the last element.
func (d Dir) Proc(name string) string { return Proc(d.FD) + "/" + name }
