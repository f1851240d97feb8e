package tree

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"strata/backend"
	"strata/backend/internal/dirfd"
)

// blockUnit is the unit of st_blocks, bytes, whatever the file system's block size is (stat(2)).
const blockUnit = 512

// Usage sums up what dir and all below it occupies, each inode once. What vanishes meanwhile and
// what is mounted inside is not counted. A tree that is written to meanwhile gives some sum between the
// two states.
func Usage(ctx context.Context, dir string) (backend.Usage, error) {
	root, err := dirfd.Open(dir)
	if err != nil {
		return backend.Usage{}, fmt.Errorf("measure tree: %w", err)
	}
	defer root.Close()
	m := meter{linked: map[dirfd.Inode]struct{}{}}
	var st unix.Statx_t
	if err := unix.Statx(root.FD, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS, &st); err != nil {
		return backend.Usage{}, fmt.Errorf("measure tree: %w", &os.PathError{Op: "stat", Path: dir, Err: err})
	}
	m.count(&st)
	w := dirfd.NewWalk(root, dirfd.AsListed)
	defer w.Close()
	if err := m.tree(ctx, w); err != nil {
		return backend.Usage{}, fmt.Errorf("measure tree: %w", err)
	}
	return m.sum, nil
}

// meter adds up one tree.
type meter struct {
	sum    backend.Usage
	linked map[dirfd.Inode]struct{} // those with several names that were counted
}

func (m *meter) count(st *unix.Statx_t) {
	if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		id := dirfd.Inode{Dev: unix.Mkdev(st.Dev_major, st.Dev_minor), Ino: st.Ino}
		if _, counted := m.linked[id]; counted {
			return
		}
		m.linked[id] = struct{}{}
	}
	m.sum.Inodes++
	m.sum.Size += int64(st.Blocks) * blockUnit
}

func (m *meter) tree(ctx context.Context, w *dirfd.Walk) error {
	for {
		e, ok, err := w.Next()
		switch {
		case err != nil:
			return err
		case ok:
			err = m.entry(ctx, w, e)
		case w.Depth() == 0:
			return nil
		default:
			err = w.Leave()
		}
		if err != nil && !errors.Is(err, dirfd.ErrMoved) {
			return err
		}
	}
}

func (m *meter) entry(ctx context.Context, w *dirfd.Walk, e dirfd.Entry) error {
	d := w.Dir()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("measure %s: %w", d, err)
	}
	var st unix.Statx_t
	err := unix.Statx(d.FD, e.Name, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, &st)
	if errors.Is(err, unix.ENOENT) || st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 { // the attribute is known from 5.8 on
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "stat", Path: d.Join(e.Name), Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		m.count(&st)
		return nil
	}
	err = w.Enter(e.Name)
	switch {
	case dirfd.IsMountPoint(err), dirfd.Vanished(err):
		return nil // mounted over, removed or replaced
	case err != nil:
		return err
	}
	m.count(&st)
	return nil
}
