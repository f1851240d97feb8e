package engine

import (
	"bufio"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// setup is run by the machine's init.
//
//go:embed machine.sh
var setup string

// Config describes a machine.
type Config struct {
	Usr string // laid over /usr, "" for none: see Release.Usr
	// FS is "btrfs", "ext4" or "xfs" to have /var/lib on a loop image, the latter two also with "-quota" for project quota, "zfs" on
	// a pool, "" in a directory of the host. "root" is a machine whose root is one ext4 file system, with /var/lib and /run in it, as
	// without systemd.
	FS     string
	SubIDs bool // give user daemon 65536 subordinate ids from 100000, for --userns-remap=daemon
	Bare   bool // no containerd: see Machine.Serve
	// Systemd boots systemd: see Machine.Reboot. It runs what the test enables, and no containerd before.
	Systemd bool
	// Containerd is added to containerd's configuration, which is one of version 2.
	Containerd string
}

// Machine is a private host for one dockerd. Its methods may be used from several goroutines,
// except for those that start, stop or close something.
type Machine struct {
	dir    string
	config Config
	owned  io.Closer // holds the lock that tells the directory of a living machine from a leftover
	cmd    *exec.Cmd
	stdin  io.Closer
	init   int            // process id of the machine's init on the real host, 0 if it is not known
	mounts map[string]int // mount point -> how many, when it was booted
}

// haltTime is how long the end of a machine may take. systemd gives each service, and then what is left, four seconds.
const haltTime = 20 * time.Second

// imageSize is the size of the loop image for Config.FS, sparse: more than any test writes.
const imageSize = 16 << 30

// Boot makes a machine in a new directory below /var/tmp. The caller must Close it. If ctx ends,
// the machine does too.
func Boot(ctx context.Context, c Config) (_ *Machine, err error) {
	dir, owned, err := claim()
	if err != nil {
		return nil, fmt.Errorf("make machine: %w", err)
	}
	m := &Machine{dir: dir, owned: owned, config: c}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("boot machine %s: %w", dir, err), m.halt(), destroyPool(dir), m.removeCgroups(), os.RemoveAll(dir), owned.Close())
		}
	}()
	if err := m.prepare(ctx, c); err != nil {
		return nil, err
	}
	if err := m.start(ctx); err != nil {
		return nil, err
	}
	return m, nil
}

// start starts the machine's init and waits until the set-up is done.
func (m *Machine) start(ctx context.Context) error {
	m.init = 0
	m.cmd = m.initCommand(ctx)
	stdin, err := m.cmd.StdinPipe()
	if err != nil {
		return err
	}
	m.stdin = stdin
	stdout, err := m.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	m.cmd.Stderr = os.Stderr
	if err := m.cmd.Start(); err != nil {
		return err
	}
	line, early := bufio.NewReader(stdout).ReadString('\n')
	m.init, err = m.findInit() // what has not come up has to be halted, too
	if early != nil || line != "ready\n" {
		return errors.Join(fmt.Errorf("set-up ended early: %q", line), early)
	}
	if err != nil {
		return err
	}
	m.mounts, err = m.mountPoints()
	return err
}

// initCommand returns the command whose only child is the machine's init.
func (m *Machine) initCommand(ctx context.Context) *exec.Cmd {
	args := []string{"--mount", "--pid", "--fork", "--kill-child"}
	containerd, systemd := "containerd", ""
	if m.config.Bare {
		containerd = ""
	}
	if m.config.Systemd {
		systemd = becomeSystemd
		args = append(args, "--uts", "--net") // of both it sets something
	} else {
		args = append(args, "tini", "--")
	}
	return exec.CommandContext(ctx, "unshare", append(args, "sh", "-c", setup, "machine", m.dir, m.config.Usr, m.config.FS, containerd, systemd, m.systemdCgroup())...)
}

func (m *Machine) prepare(ctx context.Context, c Config) error {
	for _, d := range []string{"etc", "etcwork", "lib", "run", "home", "bin", "systemd/system"} {
		if err := os.MkdirAll(filepath.Join(m.dir, d), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(m.dir, "containerd.toml"), []byte(c.Containerd), 0o600); err != nil {
		return err
	}
	if c.FS != "" {
		img := filepath.Join(m.dir, "lib.img")
		if err := errors.Join(os.WriteFile(img, nil, 0o600), os.Truncate(img, imageSize)); err != nil {
			return err
		}
	}
	if c.FS != "" && c.FS != "zfs" { // a pool is made where it is mounted
		img := filepath.Join(m.dir, "lib.img")
		args := map[string][]string{
			"root":       {"mkfs.ext4"},
			"ext4-quota": {"mkfs.ext4", "-O", "quota,project"},
			"xfs-quota":  {"mkfs.xfs"},
		}[c.FS]
		if args == nil {
			args = []string{"mkfs." + c.FS}
		}
		if out, err := exec.CommandContext(ctx, args[0], append(args[1:], "-q", img)...).CombinedOutput(); err != nil {
			return fmt.Errorf("make file system: %w: %s", err, out)
		}
	}
	if !c.SubIDs {
		return nil
	}
	for _, f := range []string{"subuid", "subgid"} {
		if err := os.WriteFile(filepath.Join(m.dir, "etc", f), []byte("daemon:100000:65536\n"), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Dir is the directory on the real host that holds what the machine has on disk. The machine sees
// it under the same path.
func (m *Machine) Dir() string { return m.dir }

// Path returns where the real host sees a path of the machine.
func (m *Machine) Path(path string) string { return fmt.Sprintf("/proc/%d/root%s", m.init, path) }

// Command returns a command that is to run inside the machine. Killing it from outside (as the end
// of ctx does) ends the wait for it, not the command itself; Close ends that.
func (m *Machine) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	all := slices.Concat([]string{"--target", strconv.Itoa(m.init), "--mount", "--pid", "--wd=/", "--", name}, args)
	return exec.CommandContext(ctx, "nsenter", all...)
}

// findInit returns the process id, on the real host, of the machine's init.
func (m *Machine) findInit() (int, error) {
	path := fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", m.cmd.Process.Pid)
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("find init of machine: %w", err)
	}
	f := strings.Fields(string(b))
	if len(f) != 1 {
		return 0, fmt.Errorf("find init of machine: %d children in %s", len(f), path)
	}
	return strconv.Atoi(f[0])
}

// Left returns what is there that was not there after Boot: processes and mounts. Network
// namespaces that dockerd pins below /run/docker/netns are not counted; it never removes them all.
func (m *Machine) Left() ([]string, error) {
	var left []string
	procs, err := m.Processes()
	if err != nil {
		return nil, err
	}
	for _, p := range procs {
		left = append(left, fmt.Sprintf("process %d: %s", p.PID, strings.Join(p.Args, " ")))
	}
	mounts, err := m.mountPoints()
	if err != nil {
		return nil, err
	}
	for at, n := range mounts {
		if n > m.mounts[at] && !strings.HasPrefix(at, "/run/docker/netns/") {
			left = append(left, fmt.Sprintf("%d mounts at %s", n-m.mounts[at], at))
		}
	}
	return left, nil
}

func (m *Machine) mountPoints() (map[string]int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", m.init))
	if err != nil {
		return nil, fmt.Errorf("list mounts of machine: %w", err)
	}
	points := make(map[string]int)
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 {
			points[f[4]]++
		}
	}
	return points, nil
}

// Close ends everything in the machine and deletes it. It is an error if that takes more than
// haltTime or if anything of the machine stays on the real host.
func (m *Machine) Close() error {
	return errors.Join(m.halt(), destroyPool(m.dir), m.loops(), m.removeCgroups(), os.RemoveAll(m.dir), m.owned.Close())
}

// halt ends the machine's init and so, by the rules of PID namespaces, all that runs in it.
func (m *Machine) halt() error {
	if m.cmd == nil || m.cmd.Process == nil {
		return nil
	}
	if err := m.stdin.Close(); err != nil {
		return err
	}
	done := make(chan struct{})
	go func() {
		_ = m.cmd.Wait() // killed or not: it is gone, and its status says nothing
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-time.After(haltTime):
		err := errors.Join(fmt.Errorf("halt machine %s: still there after %v", m.dir, haltTime), m.kill())
		<-done
		return err
	}
}

// kill ends the init, with which goes all that runs in the machine; its parent ends after that.
func (m *Machine) kill() error {
	if m.init == 0 {
		return m.cmd.Process.Kill()
	}
	return unix.Kill(m.init, unix.SIGKILL)
}

// loops returns an error if a loop device still holds a file of the machine. The kernel frees them
// with the last mount, a moment after the namespace is gone.
func (m *Machine) loops() error {
	var held string
	for range 50 {
		files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
		if err != nil {
			return err
		}
		held = ""
		for _, f := range files {
			if b, err := os.ReadFile(f); err == nil && strings.HasPrefix(string(b), m.dir+"/") {
				held = f
			}
		}
		if held == "" {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("close machine: %s still names a file in %s", held, m.dir)
}
