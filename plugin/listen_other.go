//go:build !linux

package plugin

import (
	"fmt"
	"syscall"

	"github.com/containerd/errdefs"
)

// restrict refuses: Strata serves on Linux only.
func restrict(network, address string, _ syscall.RawConn) error {
	return fmt.Errorf("listen on %s %s: only on linux: %w", network, address, errdefs.ErrNotImplemented)
}
