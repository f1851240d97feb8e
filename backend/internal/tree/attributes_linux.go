package tree

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"strata/backend/internal/dirfd"
)

// CopyAttributes gives a file the owner, mode and extended attributes of another one, which st describes: of the
// attributes those that want picks, all if it is nil. The order matters: chown drops setuid and capabilities, an ACL
// changes the mode. The times are left as they are.
func CopyAttributes(from, to dirfd.File, st *unix.Stat_t, want func(name string) bool) error {
	if err := to.Chown(st.Uid, st.Gid); err != nil {
		return err
	}
	if err := copyXattrs(from, to, want); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK { // a link has no mode; nothing else has become one since it was made
		return nil
	}
	return to.Chmod(st.Mode)
}

func copyXattrs(from, to dirfd.File, want func(name string) bool) error {
	list, err := from.Xattrs(want)
	if err != nil {
		return err
	}
	for _, x := range list {
		err := to.SetXattr(x.Name, x.Value)
		if errors.Is(err, unix.EOPNOTSUPP) && strings.HasPrefix(x.Name, "btrfs.") {
			continue // how btrfs stores the file, not what is in it
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// copyAttributes is CopyAttributes for all of them and the times, of which nothing else changes any but ctime.
func copyAttributes(from, to dirfd.File, st *unix.Stat_t) error {
	if err := CopyAttributes(from, to, st, nil); err != nil {
		return err
	}
	return to.SetTimes([2]unix.Timespec{st.Atim, st.Mtim})
}
