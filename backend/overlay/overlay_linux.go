package overlay

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
	"strata/backend/internal/layerdir"
	"strata/backend/internal/probe"
	"strata/backend/internal/quota"
	"strata/backend/overlay/upper"
)

// What this backend can do besides the three methods.
var (
	_ backend.Backend  = (*overlay)(nil)
	_ backend.Placer   = (*overlay)(nil)
	_ backend.Changer  = (*overlay)(nil)
	_ backend.Limiter  = (*overlay)(nil)
	_ backend.IDMapper = (*overlay)(nil)
	_ backend.Cloner   = (*overlay)(nil)
	_ backend.Rebaser  = (*overlay)(nil)
	_ backend.Syncer   = (*overlay)(nil)
	_ backend.Checker  = (*overlay)(nil)
	_ backend.Lister   = (*overlay)(nil)
	_ backend.Reporter = (*overlay)(nil)
	_ backend.Closer   = (*overlay)(nil)
)

// Names in a layer's directory.
const (
	diffDir      = "diff"
	workDir      = "work"
	idMappedFile = "idmapped"
)

// emptyDir is a name in the home directory. Like all names there that are no layer's it begins with a dot.
const emptyDir = ".empty"

// maxLowers is how many lower directories the kernel takes: OVL_MAX_STACK, fs/overlayfs/params.h.
const maxLowers = 500

// overlay does not change after New, so that its methods may be called concurrently.
type overlay struct {
	layerdir.Dirs
	config   Config
	probe    *probe.Prober
	options  []string        // of every overlay mount
	marks    upper.Marks     // that they write
	projects *quota.Projects // nil without project quota
	noQuota  error           // why projects is nil
}

// New makes the backend. It tries out what the kernel and the file system of env.Home can do and
// returns ErrNotImplemented, with what to do about it, if that is not enough.
func New(ctx context.Context, env backend.Env, c *Config) (backend.Backend, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	o := &overlay{Dirs: layerdir.Dirs{Env: env, Part: diffDir}, config: *c, probe: probe.New(env.Home), marks: upper.Trusted()}
	if err := o.probe.Sweep(ctx); err != nil {
		return nil, err
	}
	if err := o.require(ctx); err != nil {
		return nil, err
	}
	if err := os.Mkdir(filepath.Join(env.Home, emptyDir), 0o755); err != nil && !errors.Is(err, os.ErrExist) && !errors.Is(err, unix.EROFS) {
		return nil, err
	}
	if err := o.chooseOptions(ctx); err != nil {
		return nil, err
	}
	o.projects, o.noQuota = quota.Open(env.Home)
	return o, nil
}

// require refuses a home directory where layers would not work, or would only seem to.
func (o *overlay) require(ctx context.Context) error {
	wanted := []probe.Feature{probe.DType, probe.Whiteout}
	switch err := o.probe.Test(ctx, probe.TrustedXattr); {
	case untried(err) && !o.Env.Fresh:
		o.marks = marksOf(o.Env.Home)
		return nil
	case err == nil:
		wanted = append(wanted, probe.Overlay)
	case errdefs.IsNotImplemented(err) && o.probe.Test(ctx, probe.UserXattr) == nil:
		o.marks = upper.User()
		wanted = append(wanted, probe.OverlayUserXattr)
	default:
		return o.refusal(err)
	}
	for _, f := range wanted {
		if err := o.probe.Test(ctx, f); err != nil {
			return o.refusal(err)
		}
	}
	return nil
}

// untried tells that nothing can be tried since the file system takes no files: it is full, or mounted read-only. A store that was made
// there worked once, and layers can be read and removed.
func untried(err error) bool {
	return errors.Is(err, unix.EROFS) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

// marksOf finds out which marks this process may make, where no file can be made: the directory itself has room for a small one.
func marksOf(home string) upper.Marks {
	const name = "trusted.overlay.strata.probe"
	err := unix.Lsetxattr(home, name, nil, 0)
	if errors.Is(err, unix.EPERM) {
		return upper.User()
	}
	_ = unix.Lremovexattr(home, name) // it says nothing
	return upper.Trusted()
}

// refusal says what to do about a file system that overlay cannot use. One that is mounted read-only does no harm. On an overlay
// any probe may be the first to fail, for a reason that follows from it.
func (o *overlay) refusal(err error) error {
	var st unix.Statfs_t
	switch {
	case errors.Is(err, unix.EROFS):
		return nil
	case errdefs.IsNotImplemented(err) && unix.Statfs(o.Env.Home, &st) == nil && st.Type == unix.OVERLAYFS_SUPER_MAGIC:
		return fmt.Errorf("%s lies on an overlay, such as the root of a container, and an overlay cannot lie on one; "+
			"put the store on a volume or a disk with ext4, xfs (ftype=1) or btrfs, or use the backend vfs: %w", o.Env.Home, err)
	case errdefs.IsNotImplemented(err):
		return fmt.Errorf("%w; put the store on ext4, xfs (ftype=1) or btrfs, or use the backend vfs", err)
	}
	return err
}

// chooseOptions decides what all overlay mounts have in common.
func (o *overlay) chooseOptions(ctx context.Context) error {
	// Off, so that a layer's directory can be read without its parents and moved to another machine.
	portable := []string{"redirect_dir=nofollow", "metacopy=off", "index=off"}
	for _, word := range portable {
		known, err := o.knows(ctx, word)
		if err != nil {
			return err
		}
		if known {
			o.options = append(o.options, word)
		}
	}
	if o.userXattr() {
		o.options = append(o.options, "userxattr")
	}
	if len(o.Env.Stores) > 0 {
		// With layers on several file systems, files would otherwise seem to lie on several devices.
		known, err := o.knows(ctx, "xino=auto")
		if err != nil {
			return err
		}
		if known {
			o.options = append(o.options, "xino=auto")
		}
	}
	o.options = append(o.options, o.config.MountOpt...)
	return nil
}

// knows reports whether the kernel knows an option.
func (o *overlay) knows(ctx context.Context, word string) (bool, error) {
	err := o.probe.Test(ctx, probe.OverlayOption(word))
	switch {
	case errdefs.IsNotImplemented(err):
		return false, nil
	case untried(err): // a kernel before 6.5: the module has a parameter for each option that it knows
		key, _, _ := strings.Cut(word, "=")
		_, err = os.Stat("/sys/module/overlay/parameters/" + key)
		return err == nil, nil
	}
	return err == nil, err
}

// Close releases the file system.
func (o *overlay) Close() error {
	if o.projects == nil {
		return nil
	}
	return o.projects.Close()
}

// userXattr tells that mounts write their marks where no privileges are needed.
func (o *overlay) userXattr() bool { return o.marks == upper.User() }

func (o *overlay) own(id, name string) string { return filepath.Join(o.Env.Home, id, name) }

// Place is the upper directory. A base layer needs no whiteouts: there is nothing below to hide, and
// its bind mount would show them.
func (o *overlay) Place(_ context.Context, l backend.Layer) (backend.Place, error) {
	dir, err := o.Find(l.ID)
	if err != nil {
		return backend.Place{}, err
	}
	p := backend.Place{Dir: filepath.Join(dir, diffDir), Whiteouts: o.marks.Kind, Marks: o.marks.Kind}
	if len(l.Parents) == 0 && !l.Detached {
		p.Whiteouts = backend.WhiteoutsNone
	}
	if len(l.Parents) > 0 {
		p.Below = o.below(l)
	}
	return p, nil
}

// Check looks for the directories that a layer consists of. A missing work directory is made anew if
// repair is set; nothing else can be mended.
func (o *overlay) Check(_ context.Context, l backend.Layer, repair bool) error {
	if _, err := o.Find(l.ID); err != nil {
		return err
	}
	if fi, err := os.Lstat(o.own(l.ID, diffDir)); err != nil || !fi.IsDir() {
		return errors.Join(fmt.Errorf("%s is not a directory: %w", diffDir, errdefs.ErrDataLoss), err)
	}
	work := o.own(l.ID, workDir)
	fi, err := os.Lstat(work)
	switch {
	case err == nil && fi.IsDir():
		return nil
	case errors.Is(err, os.ErrNotExist) && repair:
		return os.Mkdir(work, 0o700)
	}
	return errors.Join(fmt.Errorf("%s is not a directory: %w", workDir, errdefs.ErrDataLoss), err)
}

// Report tells what the probes found.
func (o *overlay) Report(ctx context.Context) ([]backend.Field, error) {
	answer := func(f probe.Feature) string {
		switch err := o.probe.Test(ctx, f); {
		case err == nil:
			return "true"
		case errdefs.IsNotImplemented(err):
			return "false"
		default:
			return "unknown: " + err.Error()
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(o.Env.Home, &st); err != nil {
		return nil, &os.PathError{Op: "statfs", Path: o.Env.Home, Err: err}
	}
	return []backend.Field{
		{Name: "Backing Filesystem", Value: fileSystemName(int64(st.Type))},
		{Name: "Supports d_type", Value: answer(probe.DType)},
		{Name: "userxattr", Value: fmt.Sprint(o.userXattr())},
		{Name: "Lower directories one by one", Value: answer(probe.AddLower)},
		{Name: "Idmapped mounts", Value: answer(probe.IDMap)},
		{Name: "Size limits", Value: fmt.Sprint(o.projects != nil)},
		{Name: "Reflinks", Value: answer(probe.Reflink)},
		{Name: "Mount options", Value: strings.Join(o.options, ",")},
	}, nil
}

// fileSystemName names the file systems that a store is likely to be on: include/uapi/linux/magic.h.
func fileSystemName(magic int64) string {
	switch magic {
	case unix.EXT4_SUPER_MAGIC:
		return "extfs"
	case unix.XFS_SUPER_MAGIC:
		return "xfs"
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs"
	case unix.TMPFS_MAGIC:
		return "tmpfs"
	case unix.F2FS_SUPER_MAGIC:
		return "f2fs"
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlayfs"
	}
	return fmt.Sprintf("%#x", magic)
}
