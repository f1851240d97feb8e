package plugin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/net/netutil"
)

const (
	// maxSocketPath is the size of sun_path less the final NUL (unix(7)).
	maxSocketPath = 107
	// dialTimeout bounds the knock on a socket that exists already.
	dialTimeout = time.Second
	// MaxConns is how many connections a socket's server has at once. Docker opens one for each call in progress, containerd
	// one for all.
	MaxConns = 1024
)

// Listen listens on the unix socket at path, with mode 0600 from its first moment. The parent
// directory is made if it is missing. A socket file that nobody answers on, left by a process that
// was killed, is replaced. ErrUnavailable if somebody answers, ErrFailedPrecondition if path is
// something else than a socket. Closing the listener removes the file.
func Listen(ctx context.Context, path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("listen on %s: the path has %d bytes, a socket's can have %d: %w",
			path, len(path), maxSocketPath, errdefs.ErrInvalidArgument)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := removeStale(ctx, path); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	lc := net.ListenConfig{Control: restrict}
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}

// LimitConns returns a listener that accepts a connection only while fewer than MaxConns of its own are open. The others wait.
func LimitConns(l net.Listener) net.Listener { return netutil.LimitListener(l, MaxConns) }

// removeStale removes the socket file at path if nobody listens on it.
func removeStale(ctx context.Context, path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if fi.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("the file there is not a socket: %w", errdefs.ErrFailedPrecondition)
	}
	d := net.Dialer{Timeout: dialTimeout}
	conn, err := d.DialContext(ctx, "unix", path)
	if err == nil {
		_ = conn.Close() // it was only a knock
		return fmt.Errorf("another process answers there: %w", errdefs.ErrUnavailable)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err // somebody may be there
	}
	return os.Remove(path)
}
