package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strata/backend"
	"strata/backend/internal/dirfd"
)

// Mount performs the mounts on target, one on the other, in order. If one fails, those before it
// are undone. Target must exist. A crash leaves the mounts done so far.
func Mount(ctx context.Context, mounts []backend.Mount, target string) error {
	return Mounter{}.Mount(ctx, mounts, target)
}

// Mounter says by which system calls mounts are made. The zero value is the right one.
type Mounter struct {
	Classic bool // only mount(2), as on kernels without fsopen(2)
}

// Mount is like the function of this name.
func (mr Mounter) Mount(ctx context.Context, mounts []backend.Mount, target string) error {
	for i, m := range mounts {
		err := ctx.Err()
		if err == nil {
			err = mr.one(ctx, m, target)
		}
		if err == nil {
			continue
		}
		err = fmt.Errorf("mount %s on %s: %w", m.Type, target, err)
		for range i {
			err = errors.Join(err, unmountOne(context.WithoutCancel(ctx), target))
		}
		return err
	}
	return nil
}

func (mr Mounter) one(ctx context.Context, m backend.Mount, target string) error {
	r, err := parse(m)
	if err != nil {
		return err
	}
	if mr.Classic {
		return classic(ctx, r, target)
	}
	switch r.kind {
	case typeBind:
		err = bindFD(ctx, r, target)
	default:
		err = newFD(ctx, r, target)
	}
	if !errors.Is(err, errOldKernel) {
		return err
	}
	if cerr := classic(ctx, r, target); cerr != nil {
		return errors.Join(cerr, err)
	}
	return nil
}

// errOldKernel says that the file-descriptor calls cannot do what mount(2) perhaps can.
var errOldKernel = errors.New("the kernel lacks a newer mount call")

// Bind shows source, a directory or file, on target as well, without the mounts below it. With
// private, mounts made below target later are not passed on to other namespaces, nor those made
// elsewhere to here, even if target lies on a shared mount.
func Bind(ctx context.Context, source, target string, private bool) error {
	if err := Mount(ctx, []backend.Mount{{Type: typeBind, Source: source}}, target); err != nil {
		return err
	}
	if !private {
		return nil
	}
	if err := unix.Mount("", target, "", unix.MS_PRIVATE, ""); err != nil {
		err = fmt.Errorf("make mount %s private: %w", target, err)
		return errors.Join(err, unmountOne(context.WithoutCancel(ctx), target))
	}
	return nil
}

const (
	busyTries = 5
	busyPause = 20 * time.Millisecond // long enough for a process that is exiting to let go
)

// Unmount removes everything that is mounted on target itself, nil if nothing is. What is still in
// use after a tenth of a second is detached: it disappears from the tree now and ends with its last
// user. Symbolic links are not followed.
func Unmount(ctx context.Context, target string) error {
	for {
		err := unmountOne(ctx, target)
		if errors.Is(err, errNotMounted) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// errNotMounted says that nothing is mounted on a target.
var errNotMounted = errors.New("not a mount point")

// unmountOne removes the topmost mount on target.
func unmountOne(ctx context.Context, target string) error {
	var err error
	for try := range busyTries {
		if try > 0 {
			select {
			case <-time.After(busyPause):
			case <-ctx.Done():
			}
		}
		if cerr := ctx.Err(); cerr != nil {
			return fmt.Errorf("unmount %s: %w", target, cerr)
		}
		if err = umount(target, unix.UMOUNT_NOFOLLOW); !errors.Is(err, unix.EBUSY) {
			break
		}
	}
	if errors.Is(err, unix.EBUSY) {
		err = umount(target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return errNotMounted
	case errors.Is(err, unix.EINVAL):
		return explainInvalid(target, err)
	}
	return fmt.Errorf("unmount %s: %w", target, err)
}

func umount(target string, flags int) error {
	return dirfd.Retry(func() error { return unix.Unmount(target, flags) })
}

// explainInvalid tells a path that is no mount point from a mount that may not be removed.
func explainInvalid(target string, cause error) error {
	if fi, err := os.Lstat(target); err == nil && fi.Mode()&os.ModeSymlink != 0 {
		return errNotMounted // a symbolic link cannot be mounted on
	}
	mounted, err := Mounted(target)
	switch {
	case err != nil:
		return fmt.Errorf("unmount %s: %w", target, errors.Join(cause, err))
	case mounted:
		return fmt.Errorf("unmount %s: locked by the mount namespace: %w", target, errors.Join(errdefs.ErrPermissionDenied, cause))
	}
	return errNotMounted
}

// open returns a descriptor that names a file and takes part in nothing else.
func open(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}
