package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Pool is the name of the ZFS pool on which /var/lib lies if Config.FS is "zfs".
func (m *Machine) Pool() string { return poolOf(m.dir) }

// poolOf names the pool of a machine by its directory, so that whoever finds that finds the pool.
func poolOf(dir string) string { return filepath.Base(dir) }

// destroyPool destroys the pool of a machine in which nothing runs any more, if it has one. The kernel
// unmounts what was mounted there a moment after the namespace is gone.
func destroyPool(dir string) error {
	pool := poolOf(dir)
	var err error
	for range 60 {
		if _, err := os.Stat("/proc/spl/kstat/zfs/" + pool); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		var out []byte
		out, err = exec.Command("timeout", "60", "zpool", "destroy", "-f", pool).CombinedOutput() //nolint:noctx // whatever ends, nothing may be left behind
		if err == nil {
			return nil
		}
		err = fmt.Errorf("destroy pool %s: %w: %s", pool, err, out)
		time.Sleep(500 * time.Millisecond)
	}
	return err
}
