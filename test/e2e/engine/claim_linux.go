package engine

import (
	"errors"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// machines holds the directories of machines, each locked by the process it belongs to.
const machines = "/var/tmp"

// claim makes a directory for a machine and locks it. Directories of machines whose process was
// killed before it could remove them are removed first; nothing runs in them any more.
func claim() (dir string, owned io.Closer, err error) {
	unlock, err := lockDir(machines, unix.LOCK_EX)
	if err != nil {
		return "", nil, err
	}
	defer func() { err = errors.Join(err, unlock.Close()) }()
	if err := sweepAll(); err != nil {
		return "", nil, err
	}
	if dir, err = os.MkdirTemp(machines, "strata-machine-"); err != nil {
		return "", nil, err
	}
	owned, err = lockDir(dir, unix.LOCK_EX)
	return dir, owned, err
}

// sweepAll removes what machines left. In the guest of scripts/vm, whose root is an overlay over the files of
// another host, directories are those of that host's machines, and their locks cannot be seen.
func sweepAll() error {
	var st unix.Statfs_t
	if err := unix.Statfs(machines, &st); err != nil || st.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return err
	}
	old, err := filepath.Glob(filepath.Join(machines, "strata-machine-*"))
	for _, dir := range old {
		err = errors.Join(err, sweep(dir))
	}
	return err
}

// sweep removes what a machine left, unless it lives.
func sweep(dir string) error {
	l, err := lockDir(dir, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(destroyPool(dir), removeCgroups("/"+filepath.Base(dir)), os.RemoveAll(dir), l.Close())
}

// lockDir takes a flock on a directory. It ends when the result is closed, or with the process.
func lockDir(dir string, how int) (io.Closer, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
