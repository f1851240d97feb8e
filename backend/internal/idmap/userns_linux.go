package idmap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strata/backend"
)

// UserNamespace returns an open user namespace in which a container ID of m is the host ID that m
// gives it: what mount_setattr(2) wants for MOUNT_ATTR_IDMAP. It ends when the last descriptor and
// mount that use it do. ErrInvalidArgument for a map that the kernel does not take, such as one
// with ranges that overlap or with more than 340 of them (user_namespaces(7)).
func UserNamespace(ctx context.Context, m *backend.IDMap) (*os.File, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("make user namespace: %w", err)
	}
	ns, err := userNamespace(m)
	if errors.Is(err, unix.EINVAL) {
		err = errors.Join(errdefs.ErrInvalidArgument, err)
	}
	if err != nil {
		return nil, fmt.Errorf("make user namespace: %w", err)
	}
	return ns, nil
}

// userNamespace starts a child in a new user namespace and opens that before the child has run a
// single instruction of its own: being traced, it stops at exec(2). Which program it would have
// been does not matter; our own is the one that surely exists.
func userNamespace(m *backend.IDMap) (_ *os.File, err error) {
	runtime.LockOSThread() // a child is traced by a thread, and dies with it
	defer runtime.UnlockOSThread()
	child, err := os.StartProcess("/proc/self/exe", []string{"strata-userns"}, &os.ProcAttr{
		Sys: &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER,
			UidMappings: mappings(m.UIDs),
			GidMappings: mappings(m.GIDs),
			Ptrace:      true,
			Pdeathsig:   syscall.SIGKILL,
		},
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if kerr := child.Kill(); kerr != nil && !errors.Is(kerr, os.ErrProcessDone) {
			err = errors.Join(err, kerr)
		}
		if _, werr := child.Wait(); werr != nil {
			err = errors.Join(err, werr)
		}
	}()
	return os.Open(fmt.Sprintf("/proc/%d/ns/user", child.Pid))
}

func mappings(ranges []backend.IDRange) []syscall.SysProcIDMap {
	list := make([]syscall.SysProcIDMap, 0, len(ranges))
	for _, r := range ranges {
		list = append(list, syscall.SysProcIDMap{ContainerID: int(r.Container), HostID: int(r.Host), Size: int(r.Size)})
	}
	return list
}
