package changed

import (
	"context"
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"

	"strata/backend/btrfs/ioctl"
	"strata/backend/internal/dirfd"
)

// Snapshot is a subvolume and the one that it came from, perhaps over others.
type Snapshot struct {
	// Made is the number of the transaction that made the first snapshot. Changes have higher numbers.
	Made uint64

	upper     dirfd.Dir
	upperInfo ioctl.Subvolume
	lowerID   uint64
}

// maxClones bounds how many snapshots of snapshots may lie between a layer and its parent: one for
// each time that a clone was cloned.
const maxClones = 64

// SnapshotOf finds out since when upper and lower go different ways. nil if upper does not descend from lower
// by snapshots, as far as those are still there. The result uses upper, which has to stay open.
func SnapshotOf(ctx context.Context, upper, lower dirfd.Dir) (*Snapshot, error) {
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
			return &Snapshot{info.Created, upper, upperInfo, lowerInfo.ID}, nil
		}
		var ok bool
		info, ok, err = ioctl.SubvolumeByUUID(ctx, upper.FD, info.ParentUUID)
		if err != nil || !ok {
			return nil, err
		}
	}
	return nil, nil //nolint:nilnil // as above
}

// Unchanged tells which inodes a comparison can pass over: all but those touched since the snapshot, those of nested
// subvolumes, and all directories above them. What was written before the call counts.
func (s *Snapshot) Unchanged(ctx context.Context) (func(dev, ino uint64) bool, error) {
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
func (s *Snapshot) touched(ctx context.Context) (touched, error) {
	t := touched{}
	err := ioctl.Walk(ctx, s.upper.FD, 0, s.Made, ioctl.Visitor{
		Inode: func(n ioctl.Inode) {
			if n.Changed > s.Made {
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
func (s *Snapshot) addNested(ctx context.Context, t touched) error {
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
func (s *Snapshot) addAncestors(ctx context.Context, t touched) error {
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
