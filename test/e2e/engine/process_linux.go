package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Process is a process in a machine.
type Process struct {
	PID  int // as the machine counts
	Args []string

	procfs string // the machine's /proc, as the real host sees it
}

// Processes lists what runs in the machine, its containers included, its own init and containerd left
// out.
func (m *Machine) Processes() ([]Process, error) { return m.processes(Process.machines) }

// processes lists what runs in the machine, its init and what without says left out.
func (m *Machine) processes(without func(Process) bool) ([]Process, error) {
	procfs := m.Path("/proc")
	entries, err := os.ReadDir(procfs)
	if err != nil {
		return nil, fmt.Errorf("list processes of machine: %w", err)
	}
	var procs []Process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == 1 {
			continue
		}
		p, err := process(procfs, pid)
		if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) {
			continue // ended meanwhile
		}
		if err != nil {
			return nil, err
		}
		if without(p) {
			continue
		}
		procs = append(procs, p)
	}
	return procs, nil
}

// ended tells whether the process has ended and was not reaped yet.
func (p Process) ended() bool { return len(p.Args) == 0 }

// machines tells whether the process belongs to the machine itself, as the set-up shell does, its
// containerd and systemd's journal, or has ended.
func (p Process) machines() bool {
	if p.ended() || p.Args[0] == "containerd" || filepath.Base(p.Args[0]) == "systemd-journald" {
		return true
	}
	return len(p.Args) > 2 && p.Args[0] == "sh" && (p.Args[2] == setup || p.Args[2] == becomeSystemd)
}

func process(procfs string, pid int) (Process, error) {
	b, err := os.ReadFile(filepath.Join(procfs, strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return Process{}, err
	}
	p := Process{PID: pid, procfs: procfs}
	if s := strings.TrimSuffix(string(b), "\x00"); s != "" {
		p.Args = strings.Split(s, "\x00")
	}
	return p, nil
}

// Signal sends a signal to the process. One that is gone already is no error.
func (p Process) Signal(sig unix.Signal) error {
	// A directory of /proc serves as pidfd, so neither a reused number nor the other counting of
	// the real host can make this hit a stranger.
	fd, err := unix.Open(filepath.Join(p.procfs, strconv.Itoa(p.PID)), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("signal process %d: %w", p.PID, err)
	}
	err = unix.PidfdSendSignal(fd, sig, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		err = nil
	}
	return errors.Join(err, unix.Close(fd))
}

// RSS returns the peak and the present resident memory of the process, in bytes.
func (p Process) RSS() (peak, now int64, err error) {
	b, err := os.ReadFile(filepath.Join(p.procfs, strconv.Itoa(p.PID), "status"))
	if err != nil {
		return 0, 0, fmt.Errorf("read memory of process %d: %w", p.PID, err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 3 {
			continue
		}
		kib, err := strconv.ParseInt(f[1], 10, 64)
		switch f[0] {
		case "VmHWM:":
			peak = kib << 10
		case "VmRSS:":
			now = kib << 10
		default:
			continue
		}
		if err != nil {
			return 0, 0, fmt.Errorf("read memory of process %d: %w", p.PID, err)
		}
	}
	return peak, now, nil
}

// Find returns the machine's processes whose command ends in name.
func (m *Machine) Find(name string) ([]Process, error) {
	procs, err := m.processes(Process.ended)
	if err != nil {
		return nil, err
	}
	var found []Process
	for _, p := range procs {
		if filepath.Base(p.Args[0]) == name {
			found = append(found, p)
		}
	}
	return found, nil
}

// Cgroup is the parent that the machine's containers are given, in each hierarchy.
func (m *Machine) Cgroup() string { return "/" + filepath.Base(m.dir) }

// removeCgroups removes the cgroup and those below it from all hierarchies, version 1 and 2.
func removeCgroups(name string) error {
	tops, err := filepath.Glob("/sys/fs/cgroup/*" + name)
	if err != nil {
		return err
	}
	var errs []error
	for _, top := range append(tops, "/sys/fs/cgroup"+name) {
		var dirs []string
		err := filepath.WalkDir(top, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return err
		})
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
		for i := len(dirs) - 1; i >= 0; i-- {
			errs = append(errs, os.Remove(dirs[i]))
		}
	}
	return errors.Join(errs...)
}
