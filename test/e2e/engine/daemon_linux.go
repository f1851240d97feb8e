package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// How long dockerd may take to answer after its start, and to end after SIGTERM. Debian's own unit
// file gives it more; here a hang is to be found soon.
const (
	startTime = 90 * time.Second
	stopTime  = 60 * time.Second
)

// Daemon is a dockerd that runs in a machine.
type Daemon struct {
	m    *Machine
	cmd  *exec.Cmd
	done chan struct{} // closed when it ended
	log  string
}

// StartDocker starts dockerd in the machine, with the arguments added to those that switch its
// networks off, and waits until it answers. At most one may run at a time.
func (m *Machine) StartDocker(ctx context.Context, args ...string) (*Daemon, error) {
	args = append([]string{
		"--experimental", "--bridge=none", "--iptables=false", "--ip6tables=false",
		"--cgroup-parent=" + m.Cgroup(), "--containerd=/run/containerd/containerd.sock",
	}, args...)
	// A killed daemon leaves its socket behind; the check below must not take it for the new one.
	if err := os.Remove(m.Path("/run/docker.sock")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	d := &Daemon{m: m, done: make(chan struct{}), log: filepath.Join(m.dir, "dockerd.log")}
	log, err := os.OpenFile(d.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	d.cmd = m.Command(context.WithoutCancel(ctx), "dockerd", args...)
	d.cmd.Env = append(os.Environ(), "DOCKERD_DEPRECATED_GRAPHDRIVER_PLUGINS=1")
	d.cmd.Stdout, d.cmd.Stderr = log, log
	err = d.cmd.Start()
	if err := errors.Join(err, log.Close()); err != nil {
		return nil, fmt.Errorf("start dockerd: %w", err)
	}
	go func() {
		_ = d.cmd.Wait() // how it ended is in its log
		close(d.done)
	}()
	if err := d.ready(ctx); err != nil {
		return nil, errors.Join(err, d.Kill())
	}
	return d, nil
}

// ready waits until the daemon answers a ping.
func (d *Daemon) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", d.m.Path("/run/docker.sock"))
	}
	client := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/_ping", nil)
		if err != nil {
			return err
		}
		if resp, err := client.Do(req); err == nil && resp.Body.Close() == nil && resp.StatusCode == http.StatusOK {
			return nil
		}
		select {
		case <-d.done:
			return fmt.Errorf("start dockerd: it ended: %s", d.Log())
		case <-ctx.Done():
			return fmt.Errorf("start dockerd: %w: %s", ctx.Err(), d.Log())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Stop ends the daemon as a service manager does, with SIGTERM.
func (d *Daemon) Stop() error {
	if err := d.signal(unix.SIGTERM); err != nil {
		return err
	}
	select {
	case <-d.done:
		return nil
	case <-time.After(stopTime):
		return errors.Join(fmt.Errorf("stop dockerd: still there after %v: %s", stopTime, d.Log()), d.Kill())
	}
}

// Kill ends the daemon with SIGKILL and nothing else: shims, containers and plugins live on.
func (d *Daemon) Kill() error {
	if err := d.signal(unix.SIGKILL); err != nil {
		return err
	}
	select {
	case <-d.done:
		return nil
	case <-time.After(10 * time.Second):
		return errors.New("kill dockerd: still there")
	}
}

func (d *Daemon) signal(sig unix.Signal) error {
	procs, err := d.m.Find("dockerd")
	for _, p := range procs {
		err = errors.Join(err, p.Signal(sig))
	}
	return err
}

// logLines is how much of a log is shown: enough for the story of one operation.
const logLines = 150

// Log returns the end of the daemon's log, without what it says at level info but with all that its
// plugins say, and that of containerd.
func (d *Daemon) Log() string {
	b, err := os.ReadFile(d.log)
	if err != nil {
		return err.Error()
	}
	shims, err := os.ReadFile(filepath.Join(d.m.dir, "containerd.log"))
	if err != nil {
		return err.Error()
	}
	b = append(b, shims...)
	var lines []string
	for line := range strings.Lines(string(b)) {
		if !strings.Contains(line, "level=info") || strings.Contains(line, "plugin=") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-logLines):], "")
}

// client is Debian's docker command; another one may come first in PATH.
func client() string {
	if _, err := os.Stat("/usr/bin/docker"); err == nil {
		return "/usr/bin/docker"
	}
	return "docker"
}

// Docker returns a docker command that talks to the machine's daemon. It runs on the real host.
func (m *Machine) Docker(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, client(), args...)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Join(m.dir, "home"),
		"DOCKER_HOST=unix://" + m.Path("/run/docker.sock"), "DOCKER_BUILDKIT=0", "LC_ALL=C.UTF-8",
	}
	return cmd
}

// Output runs a command and returns its standard output without the trailing newline. The error
// holds the command line and what it wrote to standard error.
func Output(cmd *exec.Cmd) (string, error) {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		args := cmd.Args[1:]
		return string(out), fmt.Errorf("run %q: %w: %s", args, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return string(bytes.TrimRight(out, "\n")), nil
}
