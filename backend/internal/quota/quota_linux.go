package quota

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strata/backend/internal/dirfd"
)

// Projects gives size limits to directories of one file system. It is safe for concurrent use, except
// for calls for the same directory.
type Projects struct {
	root *os.File // any directory on the file system
	mu   sync.Mutex
	next uint32 // offset in the range of the number to try next
	base uint32
}

// howTo tells an administrator what is missing on the file system of f. err is what the kernel answers, nil if quota is off. A
// kernel that answers ENOSYS has no quota for this file system, and would not mount one that was made to keep it (ext4_feature_set_ok
// in fs/ext4/super.c, xfs_fs_parse_param in fs/xfs/xfs_super.c). One without CONFIG_QFMT_V2 says nothing beforehand.
func howTo(f *os.File, err error) string {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		st.Type = 0 // then all there is to say
	}
	return advice(st.Type, errors.Is(err, unix.ENOSYS))
}

// advice is howTo for a file system of a type, on a kernel that has no quota for it or has.
func advice(magic int64, without bool) string {
	switch {
	case magic == unix.EXT4_SUPER_MAGIC && without:
		return "this kernel has no quota for ext4: size limits need one with CONFIG_QUOTA and CONFIG_QFMT_V2; leave the file system as it is, " +
			"since this kernel cannot mount it with quota"
	case magic == unix.EXT4_SUPER_MAGIC:
		return "size limits need project quota, and a kernel with CONFIG_QFMT_V2, without which the file system could not be mounted afterwards: " +
			"unmount it, run tune2fs -O project,quota -Q prjquota DEVICE, and mount it with -o prjquota"
	case magic == unix.XFS_SUPER_MAGIC && without:
		return "this kernel has no quota for xfs: size limits need one with CONFIG_XFS_QUOTA; leave the mount options as they are, " +
			"since this kernel does not mount the file system with prjquota"
	case magic == unix.XFS_SUPER_MAGIC:
		return "size limits need project quota: unmount the file system, and mount it with -o prjquota (the root file system with rootflags=prjquota)"
	}
	return "size limits need a store on ext4 or xfs, mounted with -o prjquota"
}

// Open prepares for directories below dir. It changes nothing. ErrNotImplemented if the file system
// has no project quota, or it is not switched on. The Projects must be closed.
func Open(dir string) (*Projects, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open for project quota: %w", err)
	}
	if err := enforced(f); err != nil {
		return nil, errors.Join(fmt.Errorf("project quota of %s: %w", dir, err), f.Close())
	}
	return &Projects{root: f, base: rangeOf(dir)}, nil
}

// Close releases the file system.
func (p *Projects) Close() error { return p.root.Close() }

// enforced returns nil if limits on projects are counted and kept.
func enforced(f *os.File) error {
	state, err := getState(f)
	if err != nil {
		for _, lacking := range []error{unix.ENOSYS, unix.ENOTTY, unix.EOPNOTSUPP, unix.EINVAL, unix.ESRCH, unix.ENODEV, unix.ENOTBLK} {
			if errors.Is(err, lacking) {
				return fmt.Errorf("%s: %w: %w", howTo(f, err), err, errdefs.ErrNotImplemented)
			}
		}
		return err
	}
	if state&bothProject != bothProject {
		return fmt.Errorf("%s: %w", howTo(f, nil), errdefs.ErrNotImplemented)
	}
	if _, err := getAttributes(f); err != nil {
		return fmt.Errorf("%s: %w: %w", howTo(f, nil), err, errdefs.ErrNotImplemented)
	}
	return nil
}

// Limit bounds what dir and all in it may occupy, in bytes; 0 is no bound. The first limit gives dir
// a number, and everything that is in it already: directories and regular files, that is, since
// others can have none and occupy next to nothing. It may be repeated.
func (p *Projects) Limit(ctx context.Context, dir string, bytes int64) error {
	if err := p.limit(ctx, dir, bytes); err != nil {
		return fmt.Errorf("limit size of %s: %w", dir, err)
	}
	return nil
}

func (p *Projects) limit(ctx context.Context, dir string, bytes int64) error {
	if bytes < 0 {
		return fmt.Errorf("%d bytes: %w", bytes, errdefs.ErrInvalidArgument)
	}
	id, err := p.numberOf(dir)
	if err != nil {
		return err
	}
	if id == 0 {
		if bytes == 0 {
			return nil
		}
		if id, err = p.allocate(); err != nil {
			return err
		}
	}
	// The limit comes first: a number without one would count without bounding.
	if err := setLimit(p.root, id, bytes); err != nil {
		return err
	}
	return tag(ctx, dir, id)
}

// Usage returns what dir occupies, in bytes, and how many inodes; ErrNotFound if it never had a limit.
func (p *Projects) Usage(dir string) (bytes, inodes int64, err error) {
	id, err := p.numberOf(dir)
	if err == nil && id == 0 {
		err = errdefs.ErrNotFound
	}
	var q diskQuota
	if err == nil {
		q, err = getQuota(p.root, id)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("project quota of %s: %w", dir, err)
	}
	return int64(q.Bcount) * blockSize, int64(q.Icount), nil
}

// Remove drops dir's limit, before dir is deleted. Nothing happens if it has none or is not there.
func (p *Projects) Remove(dir string) error {
	id, err := p.numberOf(dir)
	if errors.Is(err, os.ErrNotExist) || err == nil && id == 0 {
		return nil
	}
	if err == nil {
		err = setLimit(p.root, id, 0)
	}
	if err != nil {
		return fmt.Errorf("drop size limit of %s: %w", dir, err)
	}
	return nil
}

// numberOf returns the project that dir passes on, 0 if it is none of ours: a store inside a project
// of the administrator stays there until a limit is asked for.
func (p *Projects) numberOf(dir string) (uint32, error) {
	f, err := openPlain(dir, unix.O_DIRECTORY)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	a, err := getAttributes(f)
	if err != nil {
		return 0, err
	}
	if a.Projid < firstID || a.Projid-firstID >= ranges*rangeSize || a.Xflags&flagInherit == 0 {
		return 0, nil
	}
	return a.Projid, nil
}

// allocate finds a number that nobody uses.
func (p *Projects) allocate() (uint32, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	taken, err := administrators()
	if err != nil {
		return 0, err
	}
	for range rangeSize {
		id := p.base + p.next
		p.next = (p.next + 1) % rangeSize
		if taken[id] {
			continue
		}
		q, err := getQuota(p.root, id)
		if err != nil {
			return 0, err
		}
		if q.unused() {
			return id, nil
		}
	}
	return 0, fmt.Errorf("all %d project numbers from %d on are in use: %w", rangeSize, p.base, errdefs.ErrResourceExhausted)
}

// administrators returns the numbers that are named in files.
func administrators() (map[uint32]bool, error) {
	all := map[uint32]bool{}
	for name, field := range map[string]int{"/etc/projects": 0, "/etc/projid": 1} {
		f, err := os.Open(name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		ids, err := parseIDs(f, field)
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		for id := range ids {
			all[id] = true
		}
	}
	return all, nil
}

// tag gives the number to dir and what is in it. It opens nothing by a symbolic link: the layer is not in use.
func tag(ctx context.Context, dir string, id uint32) error {
	root, err := dirfd.Open(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	w := dirfd.NewWalk(root, dirfd.AsListed)
	defer w.Close()
	if err := tagDirectory(root, id); err != nil {
		return err
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		e, ok, err := w.Next()
		switch {
		case err != nil:
			return err
		case ok:
			err = tagEntry(w, e.Name, id)
		case w.Depth() == 0:
			return nil
		default:
			err = w.Leave()
		}
		if err != nil {
			return err
		}
	}
}

func tagEntry(w *dirfd.Walk, name string, id uint32) error {
	d := w.Dir()
	st, err := d.File(name).Stat()
	if err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		fd, err := d.OpenFile(name)
		if err != nil {
			return err
		}
		return tagOpen(os.NewFile(uintptr(fd), d.Join(name)), id, false)
	case unix.S_IFDIR:
		if err := w.Enter(name); err != nil {
			return err
		}
		return tagDirectory(w.Dir(), id)
	}
	return nil
}

func tagDirectory(d dirfd.Dir, id uint32) error {
	fd, err := d.OpenBeneath(".", unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	return tagOpen(os.NewFile(uintptr(fd), d.String()), id, true)
}

// tagOpen gives an open file the number, and closes it.
func tagOpen(f *os.File, id uint32, inherit bool) error {
	return errors.Join(setProject(f, id, inherit), f.Close())
}

func setProject(f *os.File, id uint32, inherit bool) error {
	a, err := getAttributes(f)
	if err != nil {
		return err
	}
	want := a
	want.Projid = id
	if inherit {
		want.Xflags |= flagInherit
	}
	if want == a {
		return nil
	}
	return setAttributes(f, want)
}

func openPlain(path string, flags int) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}
