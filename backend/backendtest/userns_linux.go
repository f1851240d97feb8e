package backendtest

import (
	"context"
	"os"
	"os/exec"
	"syscall"

	"strata/backend"
)

// asRoot runs a shell script in a directory as the root of a container with an ID map: of a user namespace of its own. It returns what
// the script prints.
func asRoot(ctx context.Context, dir string, m *backend.IDMap, script string, args ...string) (string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return "", err
	}
	defer d.Close()
	// The directories above dir may be closed to such a root: it goes there by descriptor.
	words := append([]string{"-c", "cd /proc/self/fd/3 && " + script}, args...)
	cmd := exec.CommandContext(ctx, "/bin/sh", words...)
	cmd.ExtraFiles = []*os.File{d}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:                 syscall.CLONE_NEWUSER,
		UidMappings:                hostIDs(m.UIDs),
		GidMappings:                hostIDs(m.GIDs),
		GidMappingsEnableSetgroups: true,
		Credential:                 &syscall.Credential{},
	}
	text, err := cmd.CombinedOutput()
	return string(text), err
}

func hostIDs(ranges []backend.IDRange) (list []syscall.SysProcIDMap) {
	for _, r := range ranges {
		list = append(list, syscall.SysProcIDMap{ContainerID: int(r.Container), HostID: int(r.Host), Size: int(r.Size)})
	}
	return list
}
