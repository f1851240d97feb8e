package plugin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
)

// Sockets are where a program listens: on sockets that systemd has made for it (sd_listen_fds(3)), and on its own.
type Sockets struct {
	handed map[string]net.Listener // by path
}

// NewSockets takes the sockets that systemd has handed over, of which there may be none. It may be called once.
func NewSockets() (*Sockets, error) {
	list, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("take sockets from systemd: %w", err)
	}
	s := &Sockets{handed: map[string]net.Listener{}}
	for _, l := range list {
		if l == nil {
			return nil, errors.Join(fmt.Errorf("systemd handed over a file that is no listening socket: %w", errdefs.ErrInvalidArgument), s.Close())
		}
		s.handed[l.Addr().String()] = l
	}
	return s, nil
}

// Listen returns systemd's socket at path if there is one, which stays when it is closed, and else listens there itself
// (the function Listen).
func (s *Sockets) Listen(ctx context.Context, path string) (net.Listener, error) {
	if l := s.handed[path]; l != nil {
		delete(s.handed, path)
		return l, nil
	}
	return Listen(ctx, path)
}

// Close closes what was handed over and not asked for, which is an error: clients of such a socket would wait for ever.
func (s *Sockets) Close() error {
	if len(s.handed) == 0 {
		return nil
	}
	paths := slices.Sorted(maps.Keys(s.handed))
	var errs []error
	for _, l := range s.handed {
		errs = append(errs, l.Close())
	}
	clear(s.handed)
	return errors.Join(append(errs, fmt.Errorf("systemd handed over %s, which no option names: %w", strings.Join(paths, " and "), errdefs.ErrInvalidArgument))...)
}

// Ready tells systemd that the program has begun its service (sd_notify(3)), if systemd wants to know.
func Ready() error { return notify(daemon.SdNotifyReady) }

// Stopping tells systemd that the program ends.
func Stopping() error { return notify(daemon.SdNotifyStopping) }

func notify(state string) error {
	if _, err := daemon.SdNotify(false, state); err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	return nil
}
