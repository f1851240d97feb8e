package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strata/backend"
	"strata/backend/internal/idmap"
)

// maxString is the longest value that fsconfig(2) takes as a string: strndup_user(value, 256),
// zero byte included, in fs/fsopen.c.
const maxString = 255

// lacking reports whether a call failed because the kernel does not have it, or because a seccomp
// filter pretends so. Both are seen as EPERM too; whoever really lacks the permission is then told
// so by mount(2).
func lacking(err error) bool {
	return errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM)
}

// newFD mounts a file system by fsopen(2).
func newFD(ctx context.Context, r *request, target string) error {
	fd, err := unix.Fsopen(r.kind, unix.FSOPEN_CLOEXEC)
	if lacking(err) {
		return fmt.Errorf("fsopen: %w: %w", errOldKernel, err)
	}
	if errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("the kernel has no file system %q: %w", r.kind, errors.Join(errdefs.ErrNotImplemented, err))
	}
	if err != nil {
		return fmt.Errorf("fsopen: %w", err)
	}
	c := &fsContext{File: os.NewFile(uintptr(fd), "fsopen "+r.kind)}
	defer c.Close()
	defer c.release()
	if r.kind == typeOverlay && c.legacy() {
		return fmt.Errorf("overlay without lowerdir+: %w", errOldKernel)
	}
	if err := c.configure(ctx, r); err != nil {
		return err
	}
	if err := unix.FsconfigCreate(c.fd()); err != nil {
		return c.explain("create", err)
	}
	m, err := unix.Fsmount(c.fd(), unix.FSMOUNT_CLOEXEC, int(r.set))
	if err != nil {
		return c.explain("fsmount", err)
	}
	f := os.NewFile(uintptr(m), "fsmount "+r.kind)
	defer f.Close()
	return attach(f, target)
}

// fsContext is a file system that is being configured.
type fsContext struct {
	*os.File
	held  []*os.File // what its parameters refer to until it is created
	temps []*tempMount
}

func (c *fsContext) fd() int { return int(c.Fd()) }

// legacy reports whether the file system only collects its options as text for mount(2)'s parser
// (legacy_parse_param in fs/fs_context.c; overlay before 6.5): then it takes any word until it is
// created, and complains in the kernel's log. Nothing else can be done with c after "true".
func (c *fsContext) legacy() bool {
	err := unix.FsconfigSetFlag(c.fd(), "no_file_system_has_this")
	c.drain()
	return err == nil
}

// hold keeps f open until the file system is created.
func (c *fsContext) hold(f *os.File) *os.File {
	c.held = append(c.held, f)
	return f
}

func (c *fsContext) release() {
	for _, f := range c.held {
		_ = f.Close() // opened to name a directory: there is nothing that closing could lose
	}
	for _, t := range c.temps {
		t.remove()
	}
}

func (c *fsContext) configure(ctx context.Context, r *request) error {
	if r.source != "" {
		if err := c.set("source", r.source); err != nil {
			return err
		}
	}
	for _, word := range r.super {
		if err := unix.FsconfigSetFlag(c.fd(), word); err != nil {
			return c.explain(word, err)
		}
	}
	for i, l := range r.lowers {
		if err := c.addLower(ctx, l); err != nil {
			if i == 0 && errors.Is(err, unix.EINVAL) { // the first use of the key: 6.5 and 6.6 do not know it
				return fmt.Errorf("%w: %w", errOldKernel, err)
			}
			return err
		}
	}
	for _, o := range r.data {
		if err := c.apply(r, o); err != nil {
			return err
		}
	}
	return nil
}

func (c *fsContext) apply(r *request, o option) error {
	if r.kind == typeOverlay && (o.key == keyUpper || o.key == keyWork) {
		return c.setDir(o.key, o.value)
	}
	if o.bare {
		if err := unix.FsconfigSetFlag(c.fd(), o.key); err != nil {
			return c.explain(o.key, err)
		}
		return nil
	}
	return c.set(o.key, o.value)
}

func (c *fsContext) set(key, value string) error {
	if err := unix.FsconfigSetString(c.fd(), key, value); err != nil {
		return c.explain(key+"="+value, err)
	}
	return nil
}

// setDir names a directory. Some keys take a backslash as it is, others as an escape, and none of
// them more than maxString bytes: what could be misunderstood goes by descriptor.
func (c *fsContext) setDir(key, dir string) error {
	if len(dir) <= maxString && !strings.Contains(dir, `\`) {
		return c.set(key, dir)
	}
	f, err := open(dir)
	if err != nil {
		return err
	}
	if err := unix.FsconfigSetString(c.fd(), key, magicLink(c.hold(f))); err != nil {
		return c.explain(key+"="+dir, err)
	}
	return nil
}

// magicLink is a short path that leads to what f has open.
func magicLink(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

func (c *fsContext) addLower(ctx context.Context, l lower) error {
	if l.idMap == nil {
		return c.setDir(keyAddLower, l.dir)
	}
	tree, err := cloneMapped(ctx, l.dir, l.idMap)
	if err != nil {
		return err
	}
	c.hold(tree)
	// Only a descriptor that is open for reading is taken by every kernel that takes descriptors.
	dir, err := unix.Openat(int(tree.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: l.dir, Err: err}
	}
	f := c.hold(os.NewFile(uintptr(dir), l.dir))
	err = unix.FsconfigSetFd(c.fd(), keyAddLower, int(f.Fd()))
	if err == nil {
		return nil
	}
	// Kernels before 6.13 take paths only, and some later ones no mount that is attached nowhere.
	c.drain()
	t, terr := attachTemp(tree)
	if terr != nil {
		return errors.Join(terr, err)
	}
	c.temps = append(c.temps, t)
	return c.setDir(keyAddLower, t.dir)
}

// explain adds what the kernel logged about a failed call. It turns "no such option" and "not
// supported" into ErrNotImplemented.
func (c *fsContext) explain(what string, err error) error {
	runtime.KeepAlive(c)
	said := c.drain()
	if errors.Is(err, unix.EOPNOTSUPP) || strings.Contains(said, "Unknown parameter") {
		err = errors.Join(errdefs.ErrNotImplemented, err)
	}
	if said == "" {
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%s: %w (%s)", what, err, said)
}

// drain reads the kernel's messages: one a read, "e ", "w " or "i " before each.
func (c *fsContext) drain() string {
	var said []string
	buf := make([]byte, 4096)
	for {
		n, err := unix.Read(c.fd(), buf)
		if err != nil || n <= 0 {
			return strings.Join(said, "; ") // ENODATA: there are no more
		}
		_, text, _ := strings.Cut(strings.TrimSpace(string(buf[:n])), " ")
		said = append(said, text)
	}
}

// attach makes a mount visible on target.
func attach(m *os.File, target string) error {
	err := unix.MoveMount(int(m.Fd()), "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("attach: %w", &os.PathError{Op: "move_mount", Path: target, Err: err})
	}
	return nil
}

// bindFD shows a directory or file a second time.
func bindFD(ctx context.Context, r *request, target string) error {
	tree, err := clone(r.source)
	if err != nil {
		return err
	}
	defer tree.Close()
	attr := unix.MountAttr{Attr_set: r.set, Attr_clr: r.clear, Propagation: unix.MS_PRIVATE}
	if r.idMap != nil {
		ns, err := idmap.UserNamespace(ctx, r.idMap)
		if err != nil {
			return err
		}
		defer ns.Close()
		attr.Attr_set |= unix.MOUNT_ATTR_IDMAP
		attr.Userns_fd = uint64(ns.Fd())
	}
	if err := setAttr(tree, &attr); err != nil {
		return err
	}
	return attach(tree, target)
}

// clone returns a second mount of path, attached nowhere.
func clone(path string) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if lacking(err) {
		return nil, fmt.Errorf("open_tree %s: %w: %w", path, errOldKernel, err)
	}
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Bare shows what is mounted on dir without what is mounted in it, then or later. path leads there in this process until release is
// called. On a kernel that has no such calls, before 5.12, it is dir itself.
func Bare(dir string) (path string, release func() error, err error) {
	tree, err := clone(dir)
	if err == nil {
		if err = setAttr(tree, &unix.MountAttr{Propagation: unix.MS_PRIVATE}); err != nil {
			err = errors.Join(err, tree.Close())
		}
	}
	if errors.Is(err, errOldKernel) {
		return dir, func() error { return nil }, nil
	}
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/.", tree.Fd()), tree.Close, nil
}

func setAttr(tree *os.File, attr *unix.MountAttr) error {
	err := unix.MountSetattr(int(tree.Fd()), "", unix.AT_EMPTY_PATH, attr)
	idMapped := attr.Attr_set&unix.MOUNT_ATTR_IDMAP != 0
	switch {
	case err == nil:
		return nil
	case idMapped && (lacking(err) || errors.Is(err, unix.EINVAL)):
		return fmt.Errorf("map the owners of %s: wants Linux 5.12 and a file system with idmapped mounts: %w",
			tree.Name(), errors.Join(errdefs.ErrNotImplemented, err))
	case lacking(err):
		return fmt.Errorf("mount_setattr %s: %w: %w", tree.Name(), errOldKernel, err)
	}
	return &os.PathError{Op: "mount_setattr", Path: tree.Name(), Err: err}
}

// cloneMapped returns a private mount of dir that shows its owners through m.
func cloneMapped(ctx context.Context, dir string, m *backend.IDMap) (*os.File, error) {
	ns, err := idmap.UserNamespace(ctx, m)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	tree, err := clone(dir)
	if err != nil {
		if errors.Is(err, errOldKernel) {
			err = errors.Join(errdefs.ErrNotImplemented, err)
		}
		return nil, err
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Propagation: unix.MS_PRIVATE, Userns_fd: uint64(ns.Fd())}
	if err := setAttr(tree, &attr); err != nil {
		return nil, errors.Join(err, tree.Close())
	}
	return tree, nil
}

// tempMount is a mount that is visible for a moment, because something can only be told a path.
type tempMount struct{ dir string }

func attachTemp(tree *os.File) (*tempMount, error) {
	dir, err := os.MkdirTemp("", "strata-lower-")
	if err != nil {
		return nil, err
	}
	if err := attach(tree, dir); err != nil {
		return nil, errors.Join(err, os.Remove(dir))
	}
	return &tempMount{dir}, nil
}

// remove detaches the mount; an overlay that was made of it keeps a copy of its own.
func (t *tempMount) remove() {
	if err := umount(t.dir, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH); err == nil {
		_ = os.Remove(t.dir) // an empty directory in the temporary directory is no harm
	}
}
