package btrfs

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strata/backend"
	"strata/backend/btrfs/ioctl"
	"strata/backend/internal/dirfd"
)

// snapshot is a subvolume and the one that it came from.
type snapshot struct {
	upper, lower dirfd.Dir
	upperInfo    ioctl.Subvolume
	lowerID      uint64
	since        uint64 // transaction that made the first snapshot; changes have higher numbers
}

// maxClones bounds how many snapshots of snapshots may lie between a layer and its parent: one for
// each time that a clone was cloned.
const maxClones = 64

// sinceSnapshot finds out since when upper and lower go different ways. nil if upper does not descend from lower
// by snapshots, as far as those are still there.
func sinceSnapshot(ctx context.Context, upper, lower dirfd.Dir) (*snapshot, error) {
	upperInfo, err := ioctl.SubvolumeOf(upper.FD)
	if err != nil {
		return nil, err
	}
	lowerInfo, err := ioctl.SubvolumeOf(lower.FD)
	if err != nil {
		return nil, err
	}
	info := upperInfo
	for range maxClones {
		switch info.ParentUUID {
		case ioctl.UUID{}:
			return nil, nil //nolint:nilnil // not a snapshot, which is no error
		case lowerInfo.UUID:
			return &snapshot{upper, lower, upperInfo, lowerInfo.ID, info.Created}, nil
		}
		var ok bool
		info, ok, err = ioctl.SubvolumeByUUID(ctx, upper.FD, info.ParentUUID)
		if err != nil || !ok {
			return nil, err
		}
	}
	return nil, nil //nolint:nilnil // as above
}

// unchanged returns the function that treediff wants: it knows which inodes to look at, which are those
// touched since the snapshot, those of nested subvolumes, and all directories above them.
func (s *snapshot) unchanged(ctx context.Context) (func(dev, ino uint64) bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(s.upper.FD, &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: s.upper.Path, Err: err}
	}
	if err := ioctl.Sync(s.upper.FD); err != nil {
		return nil, err
	}
	t, err := s.touched(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.addNested(ctx, t); err != nil {
		return nil, err
	}
	if err := s.addAncestors(ctx, t); err != nil {
		return nil, err
	}
	dev := uint64(st.Dev)
	return func(d, ino uint64) bool {
		_, look := t[ino]
		return d == dev && !look // inode numbers inside a nested subvolume are others
	}, nil
}

// touched are inodes to look at, each with what is known about its names.
type touched map[uint64]*links

// links are the directories that an inode's names are in.
type links struct {
	names   uint32 // according to the inode
	parents []uint64
}

// touched searches for the inodes that were changed since the snapshot.
func (s *snapshot) touched(ctx context.Context) (touched, error) {
	t := touched{}
	err := ioctl.Walk(ctx, s.upper.FD, 0, s.since, ioctl.Visitor{
		Inode: func(n ioctl.Inode) {
			if n.Changed > s.since {
				t[n.Number] = &links{names: n.Links}
			}
		},
		Name: func(inode, dir uint64) {
			if l := t[inode]; l != nil {
				l.parents = append(l.parents, dir)
			}
		},
	})
	if err != nil {
		return nil, fmt.Errorf("search for changes: %w", err)
	}
	return t, nil
}

// addNested adds the nested subvolumes of both trees and the directories that they are in: a search of the
// upper tree does not see what happened inside. In a directory they appear with their ID as inode number.
func (s *snapshot) addNested(ctx context.Context, t touched) error {
	for _, id := range []uint64{s.upperInfo.ID, s.lowerID} {
		inside, err := ioctl.NestedIn(ctx, s.upper.FD, id)
		if err != nil {
			return err
		}
		for _, n := range inside {
			t.add(n.Dir)
			t.add(n.ID)
		}
	}
	return nil
}

// add adds an inode about whose names nothing is known. What is known already stays.
func (t touched) add(inode uint64) {
	if t[inode] == nil {
		t[inode] = &links{names: unknown}
	}
}

// unknown is a number of names that no inode has, so that they are looked up.
const unknown = math.MaxUint32

// addAncestors adds all directories above what is in t.
func (s *snapshot) addAncestors(ctx context.Context, t touched) error {
	queue := make([]uint64, 0, len(t))
	for inode := range t {
		queue = append(queue, inode)
	}
	for len(queue) > 0 {
		inode := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		l := t[inode]
		if inode == ioctl.RootDir || l.names == 0 { // 0: deleted, but still open
			continue
		}
		if uint32(len(l.parents)) != l.names {
			var err error // an inode that does not exist has none: the directory that it was in has been touched
			if l.parents, err = ioctl.ParentsOf(ctx, s.upper.FD, inode); err != nil {
				return err
			}
		}
		for _, p := range l.parents {
			if _, known := t[p]; !known {
				t.add(p)
				queue = append(queue, p)
			}
		}
	}
	return nil
}

// made returns the transaction that made upper as a snapshot of its parent; 0 if it is none.
func (b *btrfs) made(ctx context.Context, upper dirfd.Dir, parent string) (uint64, error) {
	lower, err := b.open(parent)
	if errdefs.IsNotFound(err) || errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer lower.Close()
	s, err := sinceSnapshot(ctx, upper, lower)
	if s == nil {
		return 0, err
	}
	return s.since, nil
}

// meter adds up what subvolumes brought to the disk.
type meter struct {
	fd      int
	sum     backend.Usage
	counted map[uint64]struct{} // addresses of extents: several files, or parts of one, may share one
}

// subvolume adds a subvolume and those inside it, as far as they are younger than since.
func (m *meter) subvolume(ctx context.Context, id, since uint64) error {
	err := ioctl.Walk(ctx, m.fd, id, since, ioctl.Visitor{
		Inode: func(n ioctl.Inode) {
			if n.Created > since {
				m.sum.Inodes++
			}
		},
		Extent: func(e ioctl.Extent) { m.extent(e, since) },
	})
	if err != nil {
		return err
	}
	inside, err := ioctl.NestedIn(ctx, m.fd, id)
	if err != nil {
		return err
	}
	for _, n := range inside {
		made, err := ioctl.SnapshotMade(ctx, m.fd, n.ID)
		if err != nil {
			return err
		}
		if err := m.subvolume(ctx, n.ID, made); err != nil {
			return err
		}
	}
	return nil
}

func (m *meter) extent(e ioctl.Extent, since uint64) {
	if e.Written <= since {
		return
	}
	if e.Address != 0 {
		if _, again := m.counted[e.Address]; again {
			return
		}
		m.counted[e.Address] = struct{}{}
	}
	m.sum.Size += e.Bytes
}
