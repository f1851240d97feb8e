package probe

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strata/backend"
	"strata/backend/internal/idmap"
	"strata/backend/internal/mount"
	"strata/backend/internal/quota"
)

// Sweep removes scratch directories that killed processes left, with what is mounted in them.
func (p *Prober) Sweep(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	left, err := filepath.Glob(filepath.Join(globQuote(p.dir), scratchPrefix+"*"))
	if err != nil {
		return fmt.Errorf("sweep %s: %w", p.dir, err)
	}
	for _, dir := range left {
		if err := discard(ctx, dir); err != nil {
			return fmt.Errorf("sweep %s: %w", p.dir, err)
		}
	}
	return nil
}

// globQuote escapes what has a meaning in a pattern.
func globQuote(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// discard removes a scratch directory. It deletes nothing while anything is mounted there.
func discard(ctx context.Context, dir string) error {
	below, err := mount.Below(dir)
	if err != nil {
		return err
	}
	for _, m := range below {
		if err := mount.Unmount(ctx, m.Target); err != nil {
			return err
		}
	}
	return os.RemoveAll(dir)
}

func (p *Prober) try(ctx context.Context, f Feature) (err error) {
	test := map[Feature]func(context.Context, string) error{
		DType:            dType,
		Whiteout:         whiteout,
		TrustedXattr:     func(_ context.Context, dir string) error { return xattr(dir, "trusted.overlay.opaque") },
		UserXattr:        func(_ context.Context, dir string) error { return xattr(dir, "user.overlay.opaque") },
		Overlay:          func(ctx context.Context, dir string) error { return overlay(ctx, dir) },
		OverlayUserXattr: func(ctx context.Context, dir string) error { return overlay(ctx, dir, "userxattr") },
		AddLower:         addLower,
		IDMap:            idMap,
		ProjectQuota:     projectQuota,
		Reflink:          reflink,
	}[f]
	if word, ok := strings.CutPrefix(string(f), optionPrefix); ok {
		if err := parsesOption(word); !errors.Is(err, errLegacy) {
			return err
		}
		test = func(ctx context.Context, dir string) error { return overlay(ctx, dir, word) }
	}
	if test == nil {
		return errors.New("no such feature")
	}
	dir, err := os.MkdirTemp(p.dir, scratchPrefix)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, discard(context.WithoutCancel(ctx), dir)) }()
	return test(ctx, dir)
}

func dType(_ context.Context, dir string) error {
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		return err
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 4096)
	n, err := unix.Getdents(int(f.Fd()), buf)
	if err != nil {
		return &os.PathError{Op: "list", Path: dir, Err: err}
	}
	const offLength, offType, offName = 16, 18, 19 // struct linux_dirent64, include/linux/dirent.h
	for b := buf[:n]; len(b) > offName; {
		length := int(b[offLength]) | int(b[offLength+1])<<8
		if strings.HasPrefix(string(b[offName:length]), "file\x00") {
			if b[offType] == unix.DT_REG {
				return nil
			}
			return lacks("directories do not tell the kind of their entries (xfs: make it with mkfs.xfs -n ftype=1)", nil)
		}
		b = b[length:]
	}
	return errors.New("a new file is not in its directory's listing")
}

func whiteout(_ context.Context, dir string) error {
	err := unix.Mknod(filepath.Join(dir, "whiteout"), unix.S_IFCHR, 0)
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL):
		return lacks("character devices cannot be made, wants a local file system such as ext4, xfs or btrfs, and CAP_MKNOD", err)
	case err != nil:
		return &os.PathError{Op: "mknod", Path: dir, Err: err}
	}
	return nil
}

func xattr(dir, name string) error {
	err := unix.Lsetxattr(dir, name, []byte("y"), 0)
	switch {
	case errors.Is(err, unix.EPERM):
		return lacks("not permitted, wants CAP_SYS_ADMIN in the initial user namespace", err)
	case errors.Is(err, unix.EOPNOTSUPP):
		return lacks("the file system keeps no such attributes, wants ext4, xfs or btrfs", err)
	case err != nil:
		return fmt.Errorf("set %s: %w", name, err)
	}
	return nil
}

// overlay mounts one, and reads, writes and deletes through it.
func overlay(ctx context.Context, dir string, options ...string) error {
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(path(d), 0o700); err != nil {
			return err
		}
	}
	if err := os.WriteFile(path("lower/file"), nil, 0o600); err != nil {
		return err
	}
	m := backend.Mount{Type: "overlay", Source: "overlay", Options: append([]string{
		"lowerdir+=" + path("lower"), "upperdir=" + path("upper"), "workdir=" + path("work"),
	}, options...)}
	if err := mount.Mount(ctx, []backend.Mount{m}, path("merged")); err != nil {
		return inconclusiveUnless(err, "overlay cannot be mounted here, wants a kernel with overlay and CAP_SYS_ADMIN, and a local file system that is not itself an overlay",
			unix.EINVAL, unix.EPERM, unix.ENODEV, unix.EOPNOTSUPP)
	}
	if err := os.Remove(path("merged/file")); err != nil {
		return inconclusiveUnless(err, "nothing can be deleted in an overlay here", unix.EINVAL, unix.EPERM, unix.EIO, unix.EOPNOTSUPP)
	}
	var st unix.Stat_t
	if err := unix.Lstat(path("upper/file"), &st); err != nil {
		return lacks("overlay records no deletions here", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
		return lacks("overlay records deletions in a form that is not known", nil)
	}
	return mount.Unmount(ctx, path("merged"))
}

// inconclusiveUnless makes an error conclusive if it is one of those that always come again. nil stays nil.
func inconclusiveUnless(err error, need string, conclusive ...error) error {
	if err == nil {
		return nil
	}
	for _, c := range conclusive {
		if errors.Is(err, c) {
			return lacks(need, err)
		}
	}
	return err
}

// errLegacy says that overlay takes any option until it is mounted: it collects text for the parser of
// mount(2), as before Linux 6.5.
var errLegacy = errors.New("overlay does not check options one by one")

// withOverlay calls f with an overlay that is being configured.
func withOverlay(f func(fd int) error) error {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return inconclusiveUnless(fmt.Errorf("fsopen: %w", err), "wants fsopen(2) and overlay", unix.ENOSYS, unix.EPERM, unix.ENODEV)
	}
	if unix.FsconfigSetFlag(fd, "no_file_system_has_this") == nil {
		return errors.Join(errLegacy, unix.Close(fd))
	}
	return errors.Join(f(fd), unix.Close(fd))
}

func addLower(_ context.Context, dir string) error {
	const need = "wants a kernel whose overlay has lowerdir+ (6.7)"
	err := withOverlay(func(fd int) error {
		link := dir
		if len(link) > 200 { // a string of fsconfig(2) has at most 255 bytes
			link = "/"
		}
		return unix.FsconfigSetString(fd, "lowerdir+", link)
	})
	return inconclusiveUnless(err, need, unix.EINVAL, errLegacy)
}

// parsesOption asks the option parser, for which nothing has to be made on a disk. errLegacy if it cannot be asked: only a mount tells.
func parsesOption(word string) error {
	key, value, found := strings.Cut(word, "=")
	err := withOverlay(func(fd int) error {
		if found {
			return unix.FsconfigSetString(fd, key, value)
		}
		return unix.FsconfigSetFlag(fd, key)
	})
	if errors.Is(err, errLegacy) || errdefs.IsNotImplemented(err) {
		return errLegacy
	}
	return inconclusiveUnless(err, "the kernel's overlay does not know it", unix.EINVAL)
}

func idMap(ctx context.Context, dir string) error {
	const shown = 4321
	one := []backend.IDRange{{Container: 0, Host: shown, Size: 1}}
	source, target := filepath.Join(dir, "source"), filepath.Join(dir, "target")
	for _, d := range []string{source, target} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return err
		}
	}
	m := &backend.IDMap{UIDs: one, GIDs: one}
	if ns, err := idmap.UserNamespace(ctx, m); err != nil {
		return inconclusiveUnless(err, "user namespaces cannot be made (sysctl user.max_user_namespaces)", unix.ENOSPC, unix.EPERM, unix.ENOSYS, unix.EINVAL)
	} else if err := ns.Close(); err != nil {
		return err
	}
	bind := backend.Mount{Type: "bind", Source: source, Options: []string{mount.IDMapOption(m)}}
	if err := mount.Mount(ctx, []backend.Mount{bind}, target); err != nil {
		return err // its class says whether that is conclusive
	}
	var st unix.Stat_t
	if err := unix.Lstat(target, &st); err != nil {
		return &os.PathError{Op: "stat", Path: target, Err: err}
	}
	if st.Uid != shown || st.Gid != shown {
		return lacks("an idmapped mount does not map owners", nil)
	}
	return mount.Unmount(ctx, target)
}

func projectQuota(_ context.Context, dir string) error {
	p, err := quota.Open(dir)
	if err != nil {
		return err
	}
	return p.Close()
}

func reflink(_ context.Context, dir string) error {
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("content"), 0o600); err != nil {
		return err
	}
	a, err := os.Open(filepath.Join(dir, "a"))
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := os.Create(filepath.Join(dir, "b"))
	if err != nil {
		return err
	}
	defer b.Close()
	if err := unix.IoctlFileClone(int(b.Fd()), int(a.Fd())); err != nil {
		return inconclusiveUnless(fmt.Errorf("clone a file: %w", err), "wants xfs with reflink=1, btrfs or bcachefs",
			unix.EOPNOTSUPP, unix.EINVAL, unix.ENOTTY, unix.ENOSYS)
	}
	return nil
}
