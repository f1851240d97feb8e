package plugin

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// restrict sets the mode of a socket before it is bound: bind(2) gives the file the mode of the
// unbound socket (unix_bind_bsd in the kernel's net/unix/af_unix.c), so there is no moment in which
// others could connect.
func restrict(_, _ string, c syscall.RawConn) error {
	var chmodErr error
	err := c.Control(func(fd uintptr) { chmodErr = unix.Fchmod(int(fd), 0o600) })
	return errors.Join(err, chmodErr)
}
