package engine

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
)

// becomeSystemd is run by the first process of a machine of Config.Systemd, after setup.
//
//go:embed systemd.sh
var becomeSystemd string

// systemdCgroup is the cgroup of version 2 that is the machine's root. What scripts/engine.sh runs has it below a cgroup that
// the script removes, so that it goes even with a machine whose process was killed there.
func (m *Machine) systemdCgroup() string {
	return filepath.Join("/", filepath.Base(os.Getenv("ENGINE_SCRATCH")), filepath.Base(m.dir))
}

// removeCgroups removes what the machine, which has ended, had in all hierarchies.
func (m *Machine) removeCgroups() error {
	if !m.config.Systemd {
		return removeCgroups(m.Cgroup())
	}
	return removeCgroups(m.systemdCgroup())
}

// Reboot halts a machine of Config.Systemd, whose services are stopped, and boots it again. It keeps what it has in
// /etc/systemd, /etc, /usr/local/bin and /var/lib.
func (m *Machine) Reboot(ctx context.Context) error {
	if err := m.halt(); err != nil {
		return err
	}
	if err := m.removeCgroups(); err != nil {
		return fmt.Errorf("reboot machine %s: %w", m.dir, err)
	}
	run := filepath.Join(m.dir, "run")
	if err := os.RemoveAll(run); err != nil {
		return fmt.Errorf("reboot machine %s: %w", m.dir, err)
	}
	if err := os.Mkdir(run, 0o755); err != nil {
		return fmt.Errorf("reboot machine %s: %w", m.dir, err)
	}
	if err := m.start(ctx); err != nil {
		return fmt.Errorf("reboot machine %s: %w", m.dir, err)
	}
	return nil
}
