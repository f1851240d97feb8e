package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/selinux/go-selinux/label"
	"golang.org/x/sys/unix"
)

// classic mounts by mount(2).
func classic(ctx context.Context, r *request, target string) error {
	if r.kind == typeBind {
		return classicBind(ctx, r, target)
	}
	data, err := r.lay()
	if err != nil {
		return err
	}
	defer data.release()
	if err := data.mapLowers(ctx, r); err != nil {
		return err
	}
	text, err := data.text()
	if err != nil {
		return err
	}
	mount := func() error {
		if err := unix.Mount(r.source, target, r.kind, r.flags(), text); err != nil {
			return errors.Join(&os.PathError{Op: "mount", Path: target, Err: err}, r.missing())
		}
		return nil
	}
	if data.numbers {
		return inDescriptors(mount)
	}
	return mount()
}

// missing names a directory that does not exist: mount(2) does not say which of many.
func (r *request) missing() error {
	var dirs []string
	for _, l := range r.lowers {
		dirs = append(dirs, l.dir)
	}
	for _, o := range r.data {
		if r.kind == typeOverlay && (o.key == keyUpper || o.key == keyWork) {
			dirs = append(dirs, o.value)
		}
	}
	for _, dir := range dirs {
		if _, err := os.Stat(dir); err != nil {
			return err
		}
	}
	return nil
}

// classicBind needs two steps: the first call takes no properties.
func classicBind(ctx context.Context, r *request, target string) error {
	if r.mapped() {
		return fmt.Errorf("map the owners of %s: needs open_tree(2) and mount_setattr(2), Linux 5.12: %w", r.source, errdefs.ErrNotImplemented)
	}
	if err := unix.Mount(r.source, target, "", unix.MS_BIND, ""); err != nil {
		return &os.PathError{Op: "bind", Path: r.source, Err: err}
	}
	if r.set == 0 && r.clear == 0 {
		return nil
	}
	err := remount(r, target)
	if err == nil {
		return nil
	}
	return errors.Join(err, unmountOne(context.WithoutCancel(ctx), target))
}

// remount changes the properties of a fresh bind and keeps those that r does not name: mount(2)
// itself would reset them.
func remount(r *request, target string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(target, &st); err != nil {
		return &os.PathError{Op: "statfs", Path: target, Err: err}
	}
	merged := request{set: fromStatfs(uint64(st.Flags))&^r.clear | r.set}
	flags := merged.flags() | unix.MS_REMOUNT | unix.MS_BIND
	if err := unix.Mount("", target, "", flags, ""); err != nil {
		return &os.PathError{Op: "remount", Path: target, Err: err}
	}
	return nil
}

// fromStatfs translates the mount properties in statfs(2)'s f_flags.
func fromStatfs(flags uint64) (set uint64) {
	for _, pair := range [...]struct{ st, attr uint64 }{
		{unix.ST_RDONLY, unix.MOUNT_ATTR_RDONLY},
		{unix.ST_NOSUID, unix.MOUNT_ATTR_NOSUID},
		{unix.ST_NODEV, unix.MOUNT_ATTR_NODEV},
		{unix.ST_NOEXEC, unix.MOUNT_ATTR_NOEXEC},
		{unix.ST_NOATIME, unix.MOUNT_ATTR_NOATIME},
		{unix.ST_NODIRATIME, unix.MOUNT_ATTR_NODIRATIME},
		{0x2000, unix.MOUNT_ATTR_NOSYMFOLLOW}, // ST_NOSYMFOLLOW, include/linux/statfs.h
	} {
		if flags&pair.st != 0 {
			set |= pair.attr
		}
	}
	return set
}

// pageData is the option text of mount(2) in the making. The kernel copies one page of it, zero
// byte included (copy_mount_options in fs/namespace.c).
type pageData struct {
	words   []string // all but the lower directories
	lowers  []string // not escaped
	numbers bool     // the lowers are names in /proc/self/fd
	held    []*os.File
	temps   []*tempMount
}

// lay splits the request into words of the option text.
func (r *request) lay() (*pageData, error) {
	d := &pageData{}
	for _, l := range r.lowers {
		d.lowers = append(d.lowers, l.dir)
	}
	for _, o := range r.data {
		word, err := r.word(o)
		if err != nil {
			return nil, err
		}
		d.words = append(d.words, word)
	}
	return d, nil
}

// word writes one option as the file system's parser wants it.
func (r *request) word(o option) (string, error) {
	switch {
	case o.bare:
		return o.key, nil
	case r.kind == typeOverlay && (o.key == keyUpper || o.key == keyWork):
		return o.key + "=" + escapeDir(o.value), nil
	case isLabel(o.key):
		if strings.ContainsAny(o.value, `"\`) {
			return "", fmt.Errorf("label %q: %w", o.value, errdefs.ErrInvalidArgument)
		}
		return label.FormatMountLabelByType("", o.value, o.key), nil
	case strings.Contains(o.value, ","):
		return "", fmt.Errorf("option %s=%s: mount(2) cannot take a comma: %w", o.key, o.value, errdefs.ErrInvalidArgument)
	}
	return o.key + "=" + o.value, nil
}

// isLabel reports whether an option's value is an SELinux label.
func isLabel(key string) bool {
	switch key {
	case "context", "fscontext", "defcontext", "rootcontext":
		return true
	}
	return false
}

// escapeDir escapes a directory as overlay's option parser reads it (ovl_next_opt and ovl_unescape
// in fs/overlayfs/params.c).
func escapeDir(dir string) string {
	return strings.NewReplacer(`\`, `\\`, `,`, `\,`).Replace(dir)
}

// escapeLower is escapeDir for an element of the list of lower directories, which colons separate.
func escapeLower(dir string) string {
	return strings.NewReplacer(`\`, `\\`, `,`, `\,`, `:`, `\:`).Replace(dir)
}

// mapLowers puts mounts with other owners in the place of the directories that want one.
func (d *pageData) mapLowers(ctx context.Context, r *request) error {
	for i, l := range r.lowers {
		if l.idMap == nil {
			continue
		}
		tree, err := cloneMapped(ctx, l.dir, l.idMap)
		if err != nil {
			return err
		}
		t, err := attachTemp(tree)
		if err := errors.Join(err, tree.Close()); err != nil {
			return err
		}
		d.temps = append(d.temps, t)
		d.lowers[i] = t.dir
	}
	return nil
}

// text joins all words. If they do not fit in a page, the lower directories are opened and named by
// number.
func (d *pageData) text() (string, error) {
	text := d.join(escapeLower)
	limit := os.Getpagesize() - 1
	if len(text) <= limit {
		return text, nil
	}
	for i, dir := range d.lowers {
		f, err := open(dir)
		if err != nil {
			return "", err
		}
		d.held = append(d.held, f)
		d.lowers[i] = strconv.Itoa(int(f.Fd()))
	}
	d.numbers = true
	text = d.join(escapeLower)
	if len(text) > limit {
		return "", fmt.Errorf("mount options of %d bytes, the kernel takes %d: %w", len(text), limit, errdefs.ErrInvalidArgument)
	}
	return text, nil
}

func (d *pageData) join(escape func(string) string) string {
	words := d.words
	if len(d.lowers) > 0 {
		escaped := make([]string, 0, len(d.lowers))
		for _, dir := range d.lowers {
			escaped = append(escaped, escape(dir))
		}
		words = append([]string{keyLower + "=" + strings.Join(escaped, ":")}, words...)
	}
	return strings.Join(words, ",")
}

func (d *pageData) release() {
	for _, f := range d.held {
		_ = f.Close() // opened to name a directory: there is nothing that closing could lose
	}
	for _, t := range d.temps {
		t.remove()
	}
}

// inDescriptors calls f with /proc/self/fd as working directory. Only one thread sees that: it gets
// a working directory of its own and ends with the call.
func inDescriptors(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread must not run anything else afterwards
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			done <- fmt.Errorf("give a thread its own working directory: %w", err)
			return
		}
		if err := unix.Chdir("/proc/self/fd"); err != nil {
			done <- &os.PathError{Op: "chdir", Path: "/proc/self/fd", Err: err}
			return
		}
		done <- f()
	}()
	return <-done
}
