package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Service is a program that runs in a machine and listens on a socket, such as containerd or Strata.
type Service struct {
	name string
	m    *Machine
	cmd  *exec.Cmd
	done chan struct{} // closed when it ended
	err  error         // how it ended; set before done is closed
	log  string
}

// Serve starts a program in the machine and waits until it listens on the socket, a path in the machine or HOST:PORT. Its log goes
// on where that of an earlier service of that name ended.
func (m *Machine) Serve(ctx context.Context, name, socket string, argv ...string) (*Service, error) {
	s := &Service{name: name, m: m, done: make(chan struct{}), log: filepath.Join(m.dir, name+".log")}
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	s.cmd = m.Command(context.WithoutCancel(ctx), argv[0], argv[1:]...)
	s.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Join(m.dir, "home"), "LC_ALL=C.UTF-8"}
	s.cmd.Stdout, s.cmd.Stderr = log, log
	err = s.cmd.Start()
	if err := errors.Join(err, log.Close()); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		s.err = s.cmd.Wait()
		close(s.done)
	}()
	network, address := "tcp", socket
	if filepath.IsAbs(socket) {
		network, address = "unix", m.Path(socket)
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil {
			return s, conn.Close()
		}
		select {
		case <-s.done:
			return nil, fmt.Errorf("start %s: it ended: %w: %s", name, s.err, s.Log())
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("start %s: %w: %s", name, ctx.Err(), s.Log()), s.Kill())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Stop ends the service with SIGTERM. It is an error if it fails, or takes longer than dockerd would wait.
func (s *Service) Stop() error {
	if err := s.signal(unix.SIGTERM); err != nil {
		return err
	}
	select {
	case <-s.done:
		if s.err != nil {
			return fmt.Errorf("stop %s: %w: %s", s.name, s.err, s.Log())
		}
		return nil
	case <-time.After(stopTime):
		return errors.Join(fmt.Errorf("stop %s: still there after %v: %s", s.name, stopTime, s.Log()), s.Kill())
	}
}

// Kill ends the service with SIGKILL and waits for its end.
func (s *Service) Kill() error {
	if err := s.signal(unix.SIGKILL); err != nil {
		return err
	}
	select {
	case <-s.done:
		return nil
	case <-time.After(10 * time.Second):
		return fmt.Errorf("kill %s: still there", s.name)
	}
}

// Done is closed when the service has ended.
func (s *Service) Done() <-chan struct{} { return s.done }

// signal reaches the program itself: it runs below nsenter.
func (s *Service) signal(sig unix.Signal) error {
	procs, err := s.m.Find(s.name)
	for _, p := range procs {
		err = errors.Join(err, p.Signal(sig))
	}
	return err
}

// Log returns all that the service has logged.
func (s *Service) Log() string {
	b, err := os.ReadFile(s.log)
	if err != nil {
		return err.Error()
	}
	return string(b)
}
