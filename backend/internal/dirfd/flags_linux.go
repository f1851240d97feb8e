package dirfd

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// protecting are the flags of chattr +i and +a, FS_IMMUTABLE_FL and FS_APPEND_FL in include/uapi/linux/fs.h: nobody removes or changes
// what has one.
const protecting = 0x10 | 0x20

// Unprotect clears the flags that keep what is called e.Name in d from being removed: its own, and those of d. It tells whether there
// were any. They cannot be cleared without CAP_LINUX_IMMUTABLE.
func Unprotect(d Dir, e Entry) bool {
	_, cleared := clearFlags(d.FD)
	if !mayBeProtected(e.Type) {
		return cleared
	}
	fd, err := d.OpenFile(e.Name)
	if err != nil {
		return cleared
	}
	_, own := clearFlags(fd)
	_ = unix.Close(fd) // only read
	return own || cleared
}

// mayBeProtected: only files and directories have flags; opening anything else may mean something.
func mayBeProtected(kind uint8) bool {
	return kind == unix.DT_REG || kind == unix.DT_DIR || kind == unix.DT_UNKNOWN
}

// Protected does what changes e, a name in d or "." for d itself. If that is not permitted because of e's own flags, it does it again
// without them, and gives them back.
func Protected(d Dir, e Entry, change func() error) error {
	err := change()
	if !errors.Is(err, unix.EPERM) || !mayBeProtected(e.Type) {
		return err
	}
	fd, openErr := d.OpenFile(e.Name)
	if openErr != nil {
		return err
	}
	defer unix.Close(fd)
	flags, cleared := clearFlags(fd)
	if !cleared {
		return err
	}
	if err := change(); err != nil {
		return err
	}
	if err := unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, flags); err != nil {
		return &os.PathError{Op: "give flags back to", Path: d.Join(e.Name), Err: err}
	}
	return nil
}

func clearFlags(fd int) (flags int, cleared bool) {
	flags, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
	if err != nil || flags&protecting == 0 {
		return flags, false
	}
	return flags, unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, flags&^protecting) == nil
}
